package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/attempt"
	"github.com/fettle-hpc/fettle/noded/internal/session"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

const (
	// tickEvery is below the shortest heartbeat that a controller may ask for.
	tickEvery = 250 * time.Millisecond
	// progressEvery is how often what changes all the time is sent.
	progressEvery = time.Second
	// compactAbove is the journal's size from which it is rewritten when most of it is dead.
	compactAbove = 8 << 20
)

// loop is the daemon's one goroutine.
func (d *daemon) loop(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	linked := make(chan struct{})
	go func() {
		defer close(linked)
		d.link.Run(ctx)
	}()
	tick, progress, readings := time.NewTicker(tickEvery), time.NewTicker(progressEvery), time.NewTicker(d.cfg.ReadingsEvery())
	defer tick.Stop()
	defer progress.Stop()
	defer readings.Stop()
	defer func() {
		cancel()
		for {
			select {
			case <-d.link.Events():
			case <-linked:
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			d.log.Info("node daemon stops; jobs go on")
			return nil
		case err := <-d.failed:
			return fmt.Errorf("%w; jobs go on, start the daemon again when the disk is well", err)
		case e := <-d.link.Events():
			d.onLink(e)
		case in := <-d.attempts.Events():
			d.noteFailed(in)
			d.sendLast(in)
			d.step(in)
		case upto := <-d.synced:
			d.step(nodemachine.JournalSynced{Upto: upto})
			d.compact()
		case <-d.gpus.Changed():
			d.refreshInventory(ctx)
			d.step(nodemachine.InventoryChanged{Inventory: d.inventory.Load()})
		case <-tick.C:
			d.step(nodemachine.Tick{})
			if d.readingsDue {
				d.readGPUs(ctx)
			}
		case <-progress.C:
			d.sendProgress()
		case <-readings.C:
			d.readGPUs(ctx)
		}
	}
}

// noteFailed logs a launch that failed: the leader tells the job's owner, this line whoever looks after the node.
func (d *daemon) noteFailed(in nodemachine.Input) {
	if f, ok := in.(nodemachine.ShimFailed); ok && f.Exit.GetDetail() != attempt.EndedUnstarted {
		d.log.Warn("launch failed", "job", f.Key.Job, "attempt", f.Key.Attempt, "err", f.Exit.GetDetail(), "user_error", f.Exit.GetUserError())
	}
}

func (d *daemon) onLink(e session.Event) {
	switch {
	case e.Opened:
		d.stream = e.Stream
		d.step(nodemachine.Connected{})
	case e.Stream != d.stream:
	case e.Closed:
		d.step(nodemachine.SessionLost{})
	default:
		d.step(nodemachine.Received{Msg: e.Msg})
	}
}

func (d *daemon) step(in nodemachine.Input) {
	before := d.machine.Session()
	for _, out := range d.machine.Step(boottimeMS(), in) {
		d.carryOut(out)
	}
	if now := d.machine.Session(); now != before && now != 0 {
		d.log.Info("session opened", "session", now, "cluster", d.machine.ClusterID())
		// Before the ends that were told in the hello are acknowledged, and their attempts forgotten.
		d.sendProgress()
		// A leader that has just come to know the node must not give away a GPU that is in use.
		d.readingsDue = true
	}
}

func (d *daemon) carryOut(out nodemachine.Output) {
	switch o := out.(type) {
	case nodemachine.Append:
		payload, err := o.Record.AppendBinary(nil)
		if err != nil {
			d.fail(fmt.Errorf("journal record: %w", err))
			return
		}
		d.lastSeq = o.Seq
		d.journal.Append(o.Seq, payload, o.Lazy)
	case nodemachine.StartShim:
		d.attempts.Start(o)
	case nodemachine.StopShim:
		d.attempts.Stop(o.Key, o.GraceMS)
	case nodemachine.SignalShim:
		d.attempts.Signal(o.Key, o.Signal)
	case nodemachine.LimitShim:
		d.attempts.SetLimit(o.Key, o.Seconds)
	case nodemachine.SetLease:
		if err := d.lease.set(o.Lease); err != nil {
			// Without it the shims end their jobs when the old lease runs out: safe, and to be told.
			d.log.Error("lease not written", "err", err)
		}
	case nodemachine.Send:
		d.link.Send(o.Msg)
	case nodemachine.CloseSession:
		if o.Refused {
			d.log.Error("controller refused", "reason", o.Reason)
		} else {
			d.log.Info("session closed", "reason", o.Reason)
		}
		d.link.Close(o.Reason)
	case nodemachine.ReadLog:
		d.reads.start(o.Order, d.link.Service())
	case nodemachine.Forget:
		d.attempts.Forget(o.Key)
	}
}

// compact rewrites a journal that has grown to twice what it was after the last look.
func (d *daemon) compact() {
	if d.compactAt == 0 {
		d.compactAt = compactAbove
	}
	if d.journal.Size() < d.compactAt {
		return
	}
	var live [][]byte
	size := int64(0)
	for _, r := range d.machine.Snapshot() {
		b, err := r.AppendBinary(nil)
		if err != nil {
			d.fail(fmt.Errorf("journal record: %w", err))
			return
		}
		live = append(live, b)
		size += int64(len(b))
	}
	d.compactAt = max(compactAbove, 2*size)
	d.journal.Rewrite(d.lastSeq, live)
}

func (d *daemon) sendProgress() {
	if d.machine.Session() == 0 {
		return
	}
	if items := d.attempts.Progress(); len(items) > 0 {
		d.link.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Progress{Progress: &fettlev1.NodeProgress{Items: items}}})
	}
}

// sendLast sends what is left of an attempt's progress before its end: once that is acknowledged the attempt is forgotten.
func (d *daemon) sendLast(in nodemachine.Input) {
	end, ok := in.(nodemachine.ShimEnded)
	if !ok || d.machine.Session() == 0 {
		return
	}
	if item := d.attempts.LastProgress(end.Key); item != nil {
		d.link.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Progress{Progress: &fettlev1.NodeProgress{Items: []*fettlev1.AttemptProgress{item}}}})
	}
}
