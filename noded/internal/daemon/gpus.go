package daemon

import (
	"context"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/gpuwatch"
	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// readingsPatience bounds the wait for readings, which are there but at the very start.
const readingsPatience = time.Second

func (d *daemon) openWatch() {
	d.watch = gpuwatch.New(gpuwatch.Config{
		ToleranceMiB: d.cfg.VRAMToleranceMiB, TolerancePercent: d.cfg.TolerancePercent(), IdleMiB: d.cfg.GPUIdleMiB, Processes: hostProcesses{},
	})
}

// readGPUs looks at the newest readings, ends what uses more than its share, and tells the leader.
func (d *daemon) readGPUs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readingsPatience)
	defer cancel()
	round, err := d.gpus.Readings(ctx)
	if err != nil {
		return // the inventory says what is wrong
	}
	over, readings := d.watch.Round(round.Number, round.GPUs, d.inventory.Load().GetGpus(), d.attempts.Holding())
	for _, o := range over {
		d.log.Warn("an attempt uses more GPU memory than its share and is ended", "job", o.Key.Job, "attempt", o.Key.Attempt, "gpu", o.UUID,
			"used_mib", o.UsedMiB, "share_mib", o.ShareMiB, "allowed_mib", o.AllowedMiB)
		d.attempts.EndOverShare(o.Key, o.String())
	}
	d.noteBusy(readings)
	if d.machine.Session() == 0 {
		return
	}
	d.readingsDue = false
	if len(readings) > 0 {
		d.link.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Readings{Readings: &fettlev1.NodeReadings{Gpus: readings}}})
	}
}

// noteBusy logs which GPUs begin and cease to be used by something that is no attempt's.
func (d *daemon) noteBusy(readings []*fettlev1.GPUReading) {
	now := map[string]bool{}
	for _, r := range readings {
		if len(r.GetForeign()) == 0 && r.GetForeignMemoryMib() == 0 {
			continue
		}
		now[r.GetUuid()] = true
		if d.busy[r.GetUuid()] {
			continue
		}
		var pids []uint32
		for _, p := range r.GetForeign() {
			pids = append(pids, p.GetPid())
		}
		d.log.Info("a GPU is used by something that is no job of this node", "gpu", r.GetUuid(), "pids", pids, "memory_mib", r.GetForeignMemoryMib())
	}
	for _, uuid := range slices.Sorted(maps.Keys(d.busy)) {
		if !now[uuid] {
			d.log.Info("a GPU is no longer used by anything but jobs", "gpu", uuid)
		}
	}
	d.busy = now
}

// hostProcesses is this host's process table.
type hostProcesses struct{}

func (hostProcesses) Parent(pid int) (int, bool) { return killtree.Parent(pid) }

func (hostProcesses) Name(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return report.Text(string(b))
}
