package attempt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/noded/internal/account"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment keeps variables in order; a later value replaces an earlier one.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if e.values == nil {
		e.values = map[string]string{}
	}
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environment) add(kvs []*fettlev1.KeyValue) {
	for _, kv := range kvs {
		// What cannot be a variable cannot have been checked by anyone: it is left out, not passed on.
		if kv.GetKey() == "" || strings.ContainsAny(kv.GetKey(), "=\x00") || strings.Contains(kv.GetValue(), "\x00") {
			continue
		}
		e.set(kv.GetKey(), kv.GetValue())
	}
}

func (e *environment) list() []string {
	l := make([]string, len(e.names))
	for i, n := range e.names {
		l[i] = n + "=" + e.values[n]
	}
	return l
}

func (e *environment) proto() []*fettlev1.KeyValue {
	l := make([]*fettlev1.KeyValue, len(e.names))
	for i, n := range e.names {
		l[i] = &fettlev1.KeyValue{Key: n, Value: e.values[n]}
	}
	return l
}

// userEnv is what the job's user brings: the account and what was exported at submit.
func userEnv(acc *account.Account, spec *fettlev1.JobSpec) *environment {
	e := &environment{}
	e.set("PATH", defaultPath)
	e.set("HOME", acc.Home)
	e.set("USER", acc.Name)
	e.set("LOGNAME", acc.Name)
	e.set("SHELL", acc.Shell)
	e.add(spec.GetEnv())
	return e
}

// fettleEnv is what the scheduler says; it goes last, so that nothing pretends to it.
func (e *environment) fettleEnv(p *fettlev1.Prepare, clusterID, files string, gpus []*fettlev1.GPU) {
	num := func(n uint64) string { return strconv.FormatUint(n, 10) }
	key, spec := p.GetKey(), p.GetSpec()
	uuids := p.GetAllocation().GetGpuUuids()
	e.set("FETTLE_CLUSTER", clusterID)
	e.set("FETTLE_JOB_ID", num(key.GetJobId()))
	e.set("FETTLE_ATTEMPT", num(uint64(key.GetAttempt())))
	e.set("FETTLE_FENCE", num(key.GetFence()))
	e.set("FETTLE_JOB_NAME", spec.GetName())
	e.set("FETTLE_NODELIST", strings.Join(nodeNames(p), ","))
	e.set("FETTLE_NNODES", num(uint64(max(1, len(p.GetGang())))))
	e.set("FETTLE_NODE_RANK", num(uint64(p.GetRank())))
	e.set("FETTLE_GPUS", num(uint64(len(uuids))))
	e.set("FETTLE_GPU_UUIDS", strings.Join(uuids, ","))
	// What an attempt does not have must not come from the job that submitted it.
	for _, name := range sometimes {
		e.unset(name)
	}
	e.share(p.GetAllocation(), gpus)
	if p.GetArrayJobId() != 0 {
		e.set("FETTLE_ARRAY_JOB_ID", num(p.GetArrayJobId()))
		e.set("FETTLE_ARRAY_INDEX", num(uint64(p.GetArrayIndex())))
	}
	e.set("FETTLE_CPUS", num(uint64(p.GetAllocation().GetCpus())))
	e.set("FETTLE_MASTER_ADDR", masterAddr(p))
	e.set("FETTLE_MASTER_PORT", num(uint64(p.GetMasterPort())))
	e.set(attemptDirVar, files)
	e.set("FETTLE_SUBMIT_DIR", spec.GetWorkDir())
	resume := "0"
	if key.GetAttempt() > 1 {
		resume = "1"
	}
	e.set("FETTLE_RESUME", resume)
	// For torchrun and what reads its variables.
	e.set("CUDA_VISIBLE_DEVICES", visibleDevices(uuids, gpus))
	e.set("MASTER_ADDR", masterAddr(p))
	e.set("MASTER_PORT", num(uint64(p.GetMasterPort())))
	e.set("NNODES", num(uint64(max(1, len(p.GetGang())))))
	e.set("NODE_RANK", num(uint64(p.GetRank())))
	e.set("NPROC_PER_NODE", num(uint64(max(1, len(uuids)))))
}

// share tells a job that it has a part of each GPU's memory only. Nothing in a driver keeps it there, so libraries that take
// most of a card at their start are asked not to, unless the job's user has said something else.
func (e *environment) share(a *fettlev1.NodeAllocation, gpus []*fettlev1.GPU) {
	if a.GetVramMib() <= 0 {
		return
	}
	e.set("FETTLE_VRAM_MIB", strconv.FormatInt(a.GetVramMib(), 10))
	if f := fraction(a, gpus); f != "" {
		e.set("FETTLE_VRAM_FRACTION", f)
	}
	e.fallback("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
	e.fallback("TF_FORCE_GPU_ALLOW_GROWTH", "true")
}

// sometimes are the scheduler's variables that not every attempt has.
var sometimes = []string{"FETTLE_VRAM_MIB", "FETTLE_VRAM_FRACTION", "FETTLE_ARRAY_JOB_ID", "FETTLE_ARRAY_INDEX"}

func (e *environment) unset(name string) {
	if _, ok := e.values[name]; ok {
		delete(e.values, name)
		e.names = slices.DeleteFunc(e.names, func(n string) bool { return n == name })
	}
}

// fallback sets a variable that is not set yet.
func (e *environment) fallback(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.set(name, value)
	}
}

// fraction is the share as a part of the smallest of the GPUs, rounded down to ten-thousandths: "0.2452". It is empty when
// a GPU's memory is not known.
func fraction(a *fettlev1.NodeAllocation, gpus []*fettlev1.GPU) string {
	var whole int64
	for _, u := range a.GetGpuUuids() {
		at := slices.IndexFunc(gpus, func(g *fettlev1.GPU) bool { return g.GetUuid() == u })
		if at < 0 || gpus[at].GetMemoryMib() <= 0 {
			return ""
		}
		if whole == 0 || gpus[at].GetMemoryMib() < whole {
			whole = gpus[at].GetMemoryMib()
		}
	}
	if whole == 0 {
		return ""
	}
	const parts = 10_000
	n := min(a.GetVramMib()*parts/whole, parts)
	return fmt.Sprintf("%d.%04d", n/parts, n%parts)
}

// attemptDirVar is different for every attempt on every node: it marks the attempt's processes.
const attemptDirVar = "FETTLE_ATTEMPT_DIR"

func nodeNames(p *fettlev1.Prepare) []string {
	if len(p.GetGang()) == 0 {
		return []string{p.GetAllocation().GetNode()}
	}
	names := make([]string, len(p.GetGang()))
	for i, g := range p.GetGang() {
		names[i] = g.GetNode()
	}
	return names
}

// masterAddr is where rank 0 listens; a gang of one stays on its own machine.
func masterAddr(p *fettlev1.Prepare) string {
	if len(p.GetGang()) > 1 {
		if a := p.GetGang()[0].GetAddress(); a != "" {
			return a
		}
		return p.GetGang()[0].GetNode()
	}
	return "127.0.0.1"
}

// visibleDevices names real GPUs by UUID; declared ones, which no driver knows by theirs, by index. Without GPUs it is
// empty, which hides all of them.
func visibleDevices(uuids []string, gpus []*fettlev1.GPU) string {
	ids := make([]string, len(uuids))
	for i, u := range uuids {
		ids[i] = u
		at := slices.IndexFunc(gpus, func(g *fettlev1.GPU) bool { return g.GetUuid() == u })
		if at >= 0 && gpus[at].GetDeclared() {
			ids[i] = strconv.FormatUint(uint64(gpus[at].GetIndex()), 10)
		}
	}
	return strings.Join(ids, ",")
}
