// Package dst tests a whole cluster in one goroutine: the real state machine, planner, session machine and node machine,
// on a virtual clock, under faults drawn from a seed. A seed that fails fails again.
//
// Raft is abstracted to what it promises: one log; entries of a leader that is replaced while they are on their way are
// committed or lost, and their proposer cannot know; a leader that was replaced goes on believing for a while. Disks lose
// what was not synced; streams break and lose what was on its way; node clocks and controller clocks disagree.
package dst

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Config sizes a run. Zero values take the defaults.
type Config struct {
	Seed uint64
	// Controllers, Nodes and Jobs default to 3, 3 and 12.
	Controllers, Nodes, Jobs int
	// FaultMS is how long faults go on; default 60,000 virtual milliseconds. HealMS is how long the cluster then gets to
	// finish everything; default 3,600,000.
	FaultMS, HealMS int64
}

// Violation is a broken promise, with the last things that happened before it.
type Violation struct {
	Seed  uint64
	AtMS  int64
	What  string
	Trace []string
}

// Error names the seed and the broken promise.
func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d at %d ms: %s\n  %s", v.Seed, v.AtMS, v.What, strings.Join(v.Trace, "\n  "))
}

// Stats counts what a run went through.
type Stats struct {
	Entries, Elections, Crashes, Reboots, Breaks, Started, Finished, Preempted int
}

// Protocol times of the simulated cluster, in milliseconds: short, so that a minute of faults sees leases run out.
const (
	heartbeatMS   = 500
	unreachableMS = 3_000
	leaseMS       = 8_000
	marginMS      = 4_000
	// patienceMS is within what a node that is lost for good has lost its jobs.
	patienceMS = 60_000
)

// Run runs one seed. The error is a *Violation.
func Run(cfg Config) (Stats, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.Controllers, 3)
	def(&cfg.Nodes, 3)
	def(&cfg.Jobs, 12)
	if cfg.FaultMS == 0 {
		cfg.FaultMS = 60_000
	}
	if cfg.HealMS == 0 {
		cfg.HealMS = 3_600_000
	}
	s := newSim(cfg)
	s.run()
	if s.violation != nil {
		return s.stats, s.violation
	}
	return s.stats, nil
}

type event struct {
	at  int64
	seq uint64
	f   func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || (e[i].at == e[j].at && e[i].seq < e[j].seq)
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push and Pop implement heap.Interface.
func (e *events) Push(x any) { *e = append(*e, x.(event)) }

// Pop removes the last element.
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

type sim struct {
	cfg    Config
	rng    *rand.Rand
	now    int64
	seq    uint64
	queue  events
	faults bool

	// log is what is committed; entry i has index i+1. hashes are the reference replica's after each.
	log    [][]byte
	hashes [][32]byte
	ref    *fsm.FSM
	refSub *state.Subscription
	term   uint64
	// leader is the controller that a quorum follows, -1 for none.
	leader   int
	inFlight []*proposal

	controllers []*controller
	nodes       []*node
	client      *client
	shims       []*shim

	// lost is a node that never comes back after the faults, nil for none; healed is when they ended.
	lost   *node
	healed int64

	// stopped counts how often each job was ended for another.
	stopped map[uint64]uint32

	stats     Stats
	violation error
	trace     []string
}

func newSim(cfg Config) *sim {
	s := &sim{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x66657474)), leader: -1, faults: true, stopped: map[uint64]uint32{}}
	store := state.New("sim")
	s.ref = fsm.New(store, fsm.Config{Fatal: func(code int, msg string) { s.fail("reference replica: exit %d: %s", code, msg) }})
	s.refSub = store.Subscribe(1 << 12)
	for i := range cfg.Controllers {
		s.controllers = append(s.controllers, newController(s, i))
	}
	for i := range cfg.Nodes {
		s.nodes = append(s.nodes, newNode(s, i))
	}
	s.client = newClient(s)
	return s
}

func (s *sim) run() {
	s.elect()
	for _, n := range s.nodes {
		n.boot()
	}
	s.client.start()
	s.after(s.between(200, 2_000), s.fault)
	s.loop(s.cfg.FaultMS)
	s.heal()
	for end := s.now + s.cfg.HealMS; s.violation == nil && s.now < end && !s.settled(); {
		s.loop(min(s.now+5_000, end))
		s.buryLost()
	}
	if s.violation == nil {
		s.checkEnd()
	}
}

// loop runs events up to a time.
func (s *sim) loop(until int64) {
	for s.violation == nil && len(s.queue) > 0 && s.queue[0].at <= until {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		e.f()
	}
	s.now = max(s.now, until)
}

func (s *sim) after(ms int64, f func()) {
	s.seq++
	heap.Push(&s.queue, event{at: s.now + max(ms, 0), seq: s.seq, f: f})
}

func (s *sim) between(lo, hi int64) int64 { return lo + s.rng.Int64N(hi-lo+1) }

// chance is true with probability p while faults last, and never after.
func (s *sim) chance(p float64) bool { return s.rng.Float64() < p && s.faults }

func (s *sim) tracef(format string, args ...any) {
	if len(s.trace) >= 80 {
		s.trace = append(s.trace[:0], s.trace[20:]...)
	}
	s.trace = append(s.trace, fmt.Sprintf("%7d ", s.now)+fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	if s.violation == nil {
		s.violation = &Violation{Seed: s.cfg.Seed, AtMS: s.now, What: fmt.Sprintf(format, args...), Trace: append([]string(nil), s.trace...)}
	}
}

// fault breaks one thing and comes back.
func (s *sim) fault() {
	if !s.faults {
		return
	}
	c := s.controllers[s.rng.IntN(len(s.controllers))]
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	switch s.rng.IntN(10) {
	case 9:
		c.setClock()
	case 0, 1:
		c.crash()
	case 2:
		s.depose()
	case 3, 4:
		n.crash()
	case 5:
		n.reboot()
	case 6:
		n.isolate(s.between(500, 25_000))
	default:
		n.breakStream()
	}
	s.after(s.between(200, 5_000), s.fault)
}

// heal ends all faults and brings everything up.
func (s *sim) heal() {
	s.faults = false
	for _, c := range s.controllers {
		c.restart()
	}
	if s.rng.IntN(4) == 0 {
		s.lost = s.nodes[s.rng.IntN(len(s.nodes))]
		s.lost.vanish(s.rng.IntN(2) == 0)
	}
	for _, n := range s.nodes {
		if n == s.lost {
			continue
		}
		n.isolatedUntil = 0
		if !n.up {
			n.boot()
		}
	}
	s.healed = s.now
	if s.leader < 0 {
		s.elect()
	}
}

// buryLost has an operator declare the lost node dead, once everything that its lease covered must have been fenced, and
// nothing runs there any more.
func (s *sim) buryLost() {
	if s.lost == nil || s.now < s.healed+patienceMS {
		return
	}
	snap := s.ref.Store().Snapshot()
	for _, id := range snap.ActiveOn(s.lost.name) {
		if j := snap.Job(id); j != nil && !j.Spec.GetNoRequeue() {
			s.fail("I10: %s is lost for %d ms, and job %d still waits for it", s.lost.name, s.now-s.healed, id)
			return
		}
	}
	if n := snap.Node(s.lost.name); n != nil && n.State != state.NodeDown && !s.lost.alive() {
		s.client.declareDead(s.lost.name)
	}
}

// proposal is an entry on its way into the log.
type proposal struct {
	data  []byte
	from  *controller
	gen   int
	term  uint64
	done  func(*fsm.Result, bool)
	ended bool
}

// propose hands an entry to the log. done gets the result, or false when the outcome is not known.
func (s *sim) propose(c *controller, e *raftlogv1.Entry, done func(*fsm.Result, bool)) {
	e.NowMs = c.wallMS()
	if e.Actor == nil {
		e.Actor = &raftlogv1.Actor{System: true}
	}
	data, err := fsm.Encode(e)
	if err != nil {
		s.fail("encode: %v", err)
		return
	}
	if s.leader != c.id || s.term != c.term {
		// Nobody follows it any more: what it proposes is never committed, and it learns of that late.
		gen := c.gen
		s.after(s.between(500, 5_000), func() {
			if c.gen == gen {
				done(nil, false)
			}
		})
		return
	}
	p := &proposal{data: data, from: c, gen: c.gen, term: c.term, done: done}
	s.inFlight = append(s.inFlight, p)
	delay := s.between(1, 5)
	if s.chance(0.02) {
		delay += s.between(50, 2_000)
	}
	s.after(delay, func() { s.settleUpTo(p) })
}

// settleUpTo commits p and everything its leader proposed before it.
func (s *sim) settleUpTo(p *proposal) {
	if p.ended {
		return
	}
	if s.leader != p.from.id || s.term != p.term {
		// Its leader was replaced before; depose decided what became of the entry.
		return
	}
	for len(s.inFlight) > 0 {
		q := s.inFlight[0]
		s.inFlight = s.inFlight[1:]
		s.commit(q, true)
		if q == p {
			return
		}
	}
}

// commit appends an entry; its proposer learns of it only if it still leads.
func (s *sim) commit(p *proposal, known bool) {
	p.ended = true
	s.log = append(s.log, p.data)
	s.stats.Entries++
	s.applyRef()
	c := p.from
	if s.violation != nil || !c.up || c.gen != p.gen {
		return
	}
	if !known {
		p.done(nil, false)
		return
	}
	p.done(c.applyUpTo(len(s.log)), true)
	for _, other := range s.controllers {
		if other != c && other.up {
			s.after(s.between(1, 200), func() { other.applyUpTo(min(other.applied+1+s.rng.IntN(4), len(s.log))) })
		}
	}
}

// applyRef brings the reference replica to the end of the log and checks every promise about the log's state.
func (s *sim) applyRef() {
	i := len(s.log)
	before := s.ref.Store().Snapshot()
	s.ref.Apply(&raft.Log{Index: uint64(i), Type: raft.LogCommand, Data: s.log[i-1]})
	after := s.ref.Store().Snapshot()
	s.hashes = append(s.hashes, after.Hash())
	for drained := false; !drained; {
		select {
		case set := <-s.refSub.C():
			for _, id := range set.Jobs {
				s.checkJob(before.Job(id), after.Job(id), id)
			}
			s.checkNodes(after)
			s.checkTenancy(before, after, set.Jobs)
		default:
			drained = true
		}
	}
}

// depose takes leadership away: a prefix of what was on its way is committed, the rest is lost, and nobody tells the old
// leader at once.
func (s *sim) depose() {
	if s.leader < 0 {
		return
	}
	old := s.controllers[s.leader]
	s.tracef("c%d loses leadership of term %d", old.id, s.term)
	s.leader = -1
	flight := s.inFlight
	s.inFlight = nil
	keep := s.rng.IntN(len(flight) + 1)
	for i, p := range flight {
		if i < keep {
			s.commit(p, false)
			continue
		}
		p.ended = true
		if p.from.up && p.from.gen == p.gen {
			p.done(nil, false)
		}
	}
	old.lostAt = s.now
	gen, term := old.gen, old.term
	believes := s.between(0, 2_500)
	if s.chance(0.2) {
		// Its process was stopped, or it is cut off together with some nodes.
		believes = s.between(2_500, 40_000)
	}
	s.after(believes, func() {
		if old.gen == gen && old.term == term {
			old.stepDown()
		}
	})
	s.after(s.between(300, 3_000), s.elect)
}

// elect makes a controller leader if a quorum is up.
func (s *sim) elect() {
	if s.leader >= 0 {
		return
	}
	var up []*controller
	for _, c := range s.controllers {
		if c.up {
			up = append(up, c)
		}
	}
	if len(up)*2 <= len(s.controllers) {
		s.after(500, s.elect)
		return
	}
	c := up[s.rng.IntN(len(up))]
	s.term++
	s.leader = c.id
	s.stats.Elections++
	s.tracef("c%d leads term %d", c.id, s.term)
	c.lead(s.term)
}

func pending(st fettlev1.JobState) bool { return st == fettlev1.JobState_JOB_STATE_PENDING }
