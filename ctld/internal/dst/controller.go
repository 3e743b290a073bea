package dst

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/leader"
	"github.com/fettle-hpc/fettle/ctld/internal/session"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

type controller struct {
	sim *sim
	id  int
	up  bool
	// gen counts process starts: callbacks of an earlier one are void.
	gen     int
	applied int
	fsm     *fsm.FSM
	// skewMS is how wrong its clock is, aheadMS what it adds while it leads so that the log's time goes on (leader.Clock).
	skewMS, aheadMS int64
	// toldMS is the newest time that it told, at toldAt of the simulation.
	toldMS, toldAt int64
	// bootSkewMS is when its machine started: its CLOCK_BOOTTIME has nothing to do with anybody else's clock.
	bootSkewMS int64

	// term is 0 while it does not believe that it leads.
	term    uint64
	machine *session.Machine
	sub     *state.Subscription
	feed    *leader.Feed
	conns   map[session.ConnID]*stream
	lostAt  int64
	ready   bool

	planning bool
	dirty    map[uint64]bool
	// nodes and policy are what else changed since the planner was told.
	nodes   map[string]bool
	policy  bool
	reports []*session.Propose
	flying  bool
}

func newController(s *sim, id int) *controller {
	c := &controller{sim: s, id: id, skewMS: s.between(-3_600_000, 3_600_000), bootSkewMS: s.between(0, 1_000_000)}
	c.begin(0)
	return c
}

// begin starts the process: with the state it had, or from a snapshot of the reference and the log after it.
func (c *controller) begin(from int) {
	c.up = true
	c.gen++
	c.applied = 0
	c.fsm = fsm.New(state.New("sim"), fsm.Config{Fatal: func(code int, msg string) { c.sim.fail("c%d: exit %d: %s", c.id, code, msg) }})
	if from > 0 && c.sim.rng.IntN(2) == 0 {
		c.restore()
	}
	c.applyUpTo(max(from, c.applied))
}

type sink struct{ bytes.Buffer }

func (*sink) ID() string    { return "sim" }
func (*sink) Cancel() error { return nil }
func (*sink) Close() error  { return nil }

// restore goes through a snapshot of the reference replica, as a restart or an install would.
func (c *controller) restore() {
	snap, err := c.sim.ref.Snapshot()
	if err != nil {
		c.sim.fail("snapshot: %v", err)
		return
	}
	var out sink
	if err := snap.Persist(&out); err != nil {
		c.sim.fail("persist: %v", err)
		return
	}
	snap.Release()
	if err := c.fsm.Restore(io.NopCloser(&out.Buffer)); err != nil {
		c.sim.fail("restore: %v", err)
		return
	}
	c.applied = len(c.sim.log)
	if got := c.fsm.Store().Snapshot().Hash(); c.applied > 0 && got != c.sim.hashes[c.applied-1] {
		c.sim.fail("I8: c%d restored a snapshot to another state at index %d", c.id, c.applied)
	}
}

// wallMS is the time of day as the controller tells it while it leads (leader.Clock): a clock that is set back makes it go
// on at its own pace.
func (c *controller) wallMS() int64 {
	wall := 1_800_000_000_000 + c.sim.now + c.skewMS + c.aheadMS
	c.toldMS = max(wall, c.toldMS+c.sim.now-c.toldAt)
	c.toldAt = c.sim.now
	return c.toldMS
}

// setClock sets the wall clock of the controller's machine, by as much as an hour.
func (c *controller) setClock() {
	by := c.sim.between(-3_600_000, 3_600_000)
	c.sim.tracef("c%d: the clock is set by %d ms", c.id, by)
	c.skewMS += by
}

// applyUpTo applies the log and returns the last entry's result.
func (c *controller) applyUpTo(n int) *fsm.Result {
	var last *fsm.Result
	for c.up && c.applied < n && c.sim.violation == nil {
		i := c.applied
		last, _ = c.fsm.Apply(&raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: c.sim.log[i]}).(*fsm.Result)
		c.applied++
		if got := c.fsm.Store().Snapshot().Hash(); got != c.sim.hashes[i] {
			c.sim.fail("I8: c%d differs from the reference after index %d", c.id, i+1)
		}
	}
	c.drain()
	return last
}

func (c *controller) crash() {
	if !c.up {
		return
	}
	c.sim.stats.Crashes++
	c.sim.tracef("c%d crashes", c.id)
	if c.sim.leader == c.id {
		c.sim.depose()
	}
	c.stepDown()
	c.up = false
	c.gen++
	c.sim.after(c.sim.between(200, 8_000), c.restart)
}

func (c *controller) restart() {
	if c.up {
		return
	}
	c.sim.tracef("c%d starts", c.id)
	c.begin(max(c.applied, 1) - 1)
}

// lead begins a term as the daemon does: everything applied, the term announced, then the work.
func (c *controller) lead(term uint64) {
	c.stepDown()
	c.term, c.ready = term, false
	c.applyUpTo(len(c.sim.log))
	c.aheadMS, c.toldMS, c.toldAt = 0, 0, c.sim.now
	c.aheadMS = max(c.fsm.Store().Snapshot().NowMS()-c.wallMS(), 0)
	c.announce(term)
}

func (c *controller) announce(term uint64) {
	gen := c.gen
	c.sim.propose(c, &raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: term, LeaderId: "c", LeaderName: "c"}}},
		func(_ *fsm.Result, ok bool) {
			if c.gen != gen || c.term != term {
				return
			}
			if !ok {
				return
			}
			c.work()
		})
}

func (c *controller) work() {
	c.ready = true
	c.planning, c.flying, c.reports = false, false, nil
	c.conns = map[session.ConnID]*stream{}
	c.feed = nil
	c.dirty, c.nodes = map[uint64]bool{}, map[string]bool{}
	snap := c.fsm.Store().Snapshot()
	for j := range snap.Pending {
		c.dirty[j.ID] = true
	}
	c.sub = c.fsm.Store().Subscribe(1 << 12)
	c.machine = session.NewMachine(session.Config{
		HeartbeatMS: heartbeatMS, UnreachableMS: unreachableMS, LeaseMS: leaseMS, LeaseMarginMS: marginMS,
	}, "sim", c.term, snap, c.bootMS())
	c.tick(c.gen, c.term)
}

func (c *controller) leading() bool { return c.up && c.machine != nil }

// stepDown ends what the controller does as leader.
func (c *controller) stepDown() {
	for _, id := range slices.Sorted(maps.Keys(c.conns)) {
		c.conns[id].close("not the leader")
	}
	if c.sub != nil {
		c.sub.Close()
	}
	c.term, c.machine, c.sub, c.conns, c.ready = 0, nil, nil, nil, false
}

func (c *controller) tick(gen int, term uint64) {
	if c.gen != gen || c.term != term || c.machine == nil {
		return
	}
	c.do(c.machine.Tick(c.fsm.Store().Snapshot(), c.bootMS()))
	c.expire()
	c.plan()
	c.sim.after(c.sim.between(80, 250), func() { c.tick(gen, term) })
}

// drain passes on what was applied to the parts that wait for changes.
func (c *controller) drain() {
	for c.leading() {
		select {
		case set := <-c.sub.C():
			for _, id := range set.Jobs {
				c.dirty[id] = true
			}
			for _, n := range set.Nodes {
				c.nodes[n] = true
			}
			c.policy = c.policy || set.Policy || set.Reservations
			c.do(c.machine.Changed(set.Jobs, c.fsm.Store().Snapshot()))
		default:
			c.plan()
			return
		}
	}
}

// bootMS is the clock that leases are told by: it is not set, whatever happens to the wall clock.
func (c *controller) bootMS() int64 { return c.sim.now + c.bootSkewMS }

// verifiedMS is when leadership was last proven: now, or when it was lost.
func (c *controller) verifiedMS() int64 {
	if c.sim.leader == c.id && c.sim.term == c.term {
		return c.bootMS()
	}
	return c.lostAt + c.bootSkewMS
}

func (c *controller) plan() {
	if c.planning || !c.leading() {
		return
	}
	snap := c.fsm.Store().Snapshot()
	now := c.wallMS()
	c.follow(snap, now)
	p := c.feed.Planner().Plan(now)
	op := &raftlogv1.ApplyPlan{Term: c.term, Placements: leader.Placements(snap, &p), Ledger: true}
	c.room(snap, &p, op)
	if len(op.Placements)+len(op.Preemptions)+len(op.DropClaims) == 0 || c.sim.violation != nil {
		return
	}
	// Now and then the planner does not wait for its plan and works on a state that is behind.
	c.planning = !c.sim.chance(0.3)
	gen, term := c.gen, c.term
	c.sim.propose(c, &raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: op}},
		func(*fsm.Result, bool) {
			if c.gen == gen && c.term == term {
				c.planning = false
			}
		})
}

// follow tells the planner what changed, as the leader's scheduler does.
func (c *controller) follow(snap *state.Snapshot, now int64) {
	if c.feed == nil {
		c.feed = leader.NewFeed(leader.FeedConfig{})
		c.feed.Reset(snap, c.machine.Connected, now)
	} else {
		if c.policy {
			c.feed.Policy(snap)
		}
		c.feed.Nodes(snap, slices.Sorted(maps.Keys(c.nodes)), c.machine.Connected)
	}
	clear(c.nodes)
	c.policy = false
	params := policy.Defaults()
	for _, id := range slices.Sorted(maps.Keys(c.dirty)) {
		j := snap.Job(id)
		delete(c.dirty, id)
		switch {
		case j == nil:
			c.feed.Gone(id)
		case j.Active():
			c.feed.Active(snap, j, now)
		case !pending(j.State):
			c.feed.Gone(id)
		case !j.Startable():
			c.feed.Hold(id)
		case j.RetryAtMS > now || j.Spec.GetBeginMs() > now:
			c.feed.Hold(id)
			c.dirty[id] = true
		default:
			c.feed.Pending(snap, j, params.Score(j.Spec.GetPriority(), j.EligibleMS, 1, j.Spec.GetTimeLimitS()))
		}
	}
	c.feed.Tick(snap, now)
}

// do carries out a session machine's outputs, as its loop does.
func (c *controller) do(outs []session.Output) {
	for _, o := range outs {
		switch {
		case o.Send != nil:
			if st := c.conns[o.Send.Conn]; st != nil {
				st.toNode(o.Send.Msg)
			}
		case o.Close != nil:
			if st := c.conns[o.Close.Conn]; st != nil {
				st.close(o.Close.Reason)
			}
		case o.Propose.Report != nil:
			c.reports = append(c.reports, o.Propose)
		default:
			c.proposeNode(o.Propose)
		}
	}
	c.flush()
}

func (c *controller) proposeNode(p *session.Propose) {
	gen, term := c.gen, c.term
	if p.Entry.GetNodeHello() == nil && c.sim.chance(0.2) {
		// A judgement on a node comes once more, when the node may be back.
		entry := proto.Clone(p.Entry).(*raftlogv1.Entry)
		c.sim.after(c.sim.between(100, 20_000), func() {
			if c.gen == gen && c.term == term && c.machine != nil {
				c.sim.propose(c, entry, func(*fsm.Result, bool) {})
			}
		})
	}
	c.start(p.Entry, []*session.Propose{p}, func() {})
}

var errNotCommitted = errors.New("not committed")

// start proposes an entry and tells the machine how it went, as the session's loop does.
func (c *controller) start(e *raftlogv1.Entry, parts []*session.Propose, over func()) {
	gen, term := c.gen, c.term
	c.sim.propose(c, e, func(r *fsm.Result, ok bool) {
		if c.gen != gen || c.term != term || c.machine == nil {
			return
		}
		over()
		var outs []session.Output
		for _, p := range parts {
			switch {
			case !ok:
				outs = append(outs, c.machine.Failed(p, errNotCommitted, false)...)
			case r.Err != nil:
				outs = append(outs, c.machine.Failed(p, r.Err, true)...)
			default:
				outs = append(outs, c.machine.Committed(p, r.Index, c.fsm.Store().Snapshot(), c.bootMS())...)
			}
		}
		c.do(outs)
		c.plan()
	})
}

func (c *controller) flush() {
	if c.flying || len(c.reports) == 0 || !c.leading() {
		return
	}
	batch := c.reports
	c.reports, c.flying = nil, true
	var list []*fettlev1.AttemptReport
	for _, p := range batch {
		list = append(list, p.Report.Report)
	}
	c.repeatLater(list)
	c.start(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: list}}}, batch, func() { c.flying = false })
}

// repeatLater proposes reports once more when the world has moved on, through whoever leads then: what a retry whose
// first try was committed after all does.
func (c *controller) repeatLater(list []*fettlev1.AttemptReport) {
	if !c.sim.chance(0.15) {
		return
	}
	c.sim.after(c.sim.between(500, 30_000), func() {
		for _, o := range c.sim.controllers {
			if o.leading() && o.ready && c.sim.leader == o.id {
				c.sim.propose(o, &raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: list}}}, func(*fsm.Result, bool) {})
				return
			}
		}
	})
}
