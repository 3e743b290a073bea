package dst

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// client submits jobs and acts on them, repeats what it got no answer to, and remembers every answer.
type client struct {
	sim *sim
	// jobs maps every answered job number to its request id, byRequest the other way.
	jobs      map[uint64]string
	byRequest map[string]uint64
	ids       []uint64
	cancelled map[uint64]bool
}

func newClient(s *sim) *client {
	return &client{sim: s, jobs: map[uint64]string{}, byRequest: map[string]uint64{}, cancelled: map[uint64]bool{}}
}

var user = &raftlogv1.Actor{User: "ada", Uid: 1000, Gid: 1000}

func (c *client) start() {
	c.startTenancy()
	for i := range c.sim.cfg.Jobs {
		c.sim.after(c.sim.between(0, c.sim.cfg.FaultMS*3/4), func() { c.submit(fmt.Sprintf("req-%d", i), c.spec(i)) })
	}
	for range c.sim.cfg.Jobs {
		c.sim.after(c.sim.between(c.sim.cfg.FaultMS/10, c.sim.cfg.FaultMS), c.act)
	}
}

func (c *client) spec(i int) *fettlev1.JobSpec {
	rng := c.sim.rng
	spec := &fettlev1.JobSpec{
		Name: fmt.Sprintf("job%d", i), Method: "script", Script: []byte("#!/bin/true\n"), Priority: uint32(1 + rng.IntN(10)),
		Nodes: 1, CpusPerNode: 1, GpusPerNode: &fettlev1.GPURequest{Count: uint32(rng.IntN(gpusPerNode + 1))},
		NoRequeue: rng.IntN(4) == 0, Hold: rng.IntN(12) == 0, Partition: model.DefaultPartition, WorkDir: "/w", KillGraceS: 2,
	}
	if rng.IntN(4) == 0 {
		spec.Nodes = 2
	}
	c.link(spec)
	c.tenant(spec)
	model.NormalizeSpec(spec)
	return spec
}

// ask proposes through whichever controller believes that it leads, and asks again when there is none or no answer.
func (c *client) ask(e func() *raftlogv1.Entry, done func(*fsm.Result)) {
	ctl := c.sim.controllers[c.sim.rng.IntN(len(c.sim.controllers))]
	again := func() { c.sim.after(c.sim.between(50, 1_500), func() { c.ask(e, done) }) }
	if !ctl.leading() || !ctl.ready {
		again()
		return
	}
	over := false
	c.sim.propose(ctl, e(), func(r *fsm.Result, ok bool) {
		if over {
			return
		}
		over = true
		// The answer may be lost on its way back.
		if !ok || c.sim.chance(0.1) {
			again()
			return
		}
		done(r)
	})
	// A controller that dies answers nothing.
	c.sim.after(5_000, func() {
		if !over {
			over = true
			again()
		}
	})
}

func (c *client) submit(req string, spec *fettlev1.JobSpec) {
	c.ask(func() *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: user, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{
			Jobs: []*fettlev1.JobSubmission{{RequestId: req, Spec: spec}},
		}}}
	}, func(r *fsm.Result) {
		if r.Err == nil && r.Submit[0].Err != nil {
			if less := proto.Clone(spec).(*fettlev1.JobSpec); unlinked(less, r.Submit[0].Err) {
				c.submit(req, less)
				return
			}
		}
		if r.Err != nil || r.Submit[0].Err != nil {
			c.sim.fail("submit %s refused: %v %v", req, r.Err, r.Submit)
			return
		}
		id := r.Submit[0].JobID
		if other, ok := c.jobs[id]; ok && other != req {
			c.sim.fail("I1: job number %d was answered to %s and to %s", id, other, req)
		}
		if other, ok := c.byRequest[req]; ok && other != id {
			c.sim.fail("I7: %s was answered with jobs %d and %d", req, other, id)
		}
		if c.jobs[id] == "" {
			c.ids = append(c.ids, id)
		}
		c.jobs[id], c.byRequest[req] = req, id
		c.sim.tracef("job %d answered to %s", id, req)
		if c.sim.chance(0.3) {
			c.sim.after(c.sim.between(0, 60), func() { c.cancel(id) })
		}
		if c.sim.chance(0.1) {
			c.submit(req, spec)
		}
	})
}

// act does something to a job.
func (c *client) act() {
	if len(c.ids) == 0 {
		return
	}
	id := c.ids[c.sim.rng.IntN(len(c.ids))]
	ids := []uint64{id}
	if j := c.sim.ref.Store().Snapshot().Job(id); j != nil && j.IsArray() && c.sim.rng.IntN(2) == 0 {
		c.actOnElement(j)
		return
	}
	switch c.sim.rng.IntN(4) {
	case 0, 1:
		c.cancel(id)
	case 2:
		req := fmt.Sprintf("requeue-%d-%d", id, c.sim.now)
		c.ask(func() *raftlogv1.Entry {
			return &raftlogv1.Entry{Actor: user, RequestId: req, Op: &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Ids: ids}}}
		}, func(*fsm.Result) {})
	default:
		c.ask(func() *raftlogv1.Entry {
			return &raftlogv1.Entry{Actor: user, Op: &raftlogv1.Entry_Hold{Hold: &raftlogv1.HoldJobs{Ids: ids}}}
		}, func(*fsm.Result) {})
	}
}

func (c *client) cancel(id uint64) {
	c.ask(func() *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: user, Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Ids: []uint64{id}}}}
	}, func(r *fsm.Result) {
		if r.Err == nil && r.Actions[0].Err == nil {
			c.cancelled[id] = true
			c.sim.tracef("cancel of job %d answered", id)
			if j := c.sim.ref.Store().Snapshot().Job(id); j != nil && !j.Finished() && !j.CancelRequested {
				c.sim.fail("I12: the cancel of job %d was answered, but the job is %s and goes on", id, model.StateName(j.State))
			}
		}
	})
}

// releaseAll lets held jobs go when faults are over, so that everything can finish.
func (c *client) releaseAll(held []uint64) {
	slices.Sort(held)
	c.ask(func() *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: user, Op: &raftlogv1.Entry_Release{Release: &raftlogv1.ReleaseJobs{Ids: held}}}
	}, func(r *fsm.Result) { c.sim.tracef("release of %v: %v %v", held, r.Err, r.Actions) })
}

// declareDead is an operator's word that nothing runs on a node any more.
func (c *client) declareDead(node string) {
	c.sim.tracef("%s is declared dead", node)
	c.ask(func() *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "root", Admin: true}, Op: &raftlogv1.Entry_UpdateNode{UpdateNode: &fettlev1.UpdateNodeRequest{
			Node: node, Action: fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD,
		}}}
	}, func(*fsm.Result) {})
}

// resume puts a drained node back to work.
func (c *client) resume(node string) {
	c.ask(func() *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "root", Admin: true}, Op: &raftlogv1.Entry_UpdateNode{UpdateNode: &fettlev1.UpdateNodeRequest{
			Node: node, Action: fettlev1.NodeAction_NODE_ACTION_RESUME,
		}}}
	}, func(*fsm.Result) {})
}
