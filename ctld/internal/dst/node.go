package dst

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/session"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// gpusPerNode and cpusPerNode are what each simulated node has.
const (
	gpusPerNode = 2
	cpusPerNode = 4
)

type node struct {
	sim  *sim
	name string
	// up is whether the node daemon runs; the shims live on without it.
	up bool
	// off is whether its power is gone for good.
	off           bool
	gen           int
	boots         int
	skewMS        int64
	machine       *nodemachine.Machine
	stream        *stream
	isolatedUntil int64

	// disk is the journal: what is synced, and what is not yet.
	disk    []*nodemachine.Record
	written []nodemachine.Append
	syncing bool
	lease   nodemachine.Lease
	// dirs are the attempts that have a directory, by key.
	dirs map[nodemachine.Key]*shim
	// recent orders, for messages that come twice.
	recent []*fettlev1.ControllerMessage
}

// shim is one attempt's processes on one node.
type shim struct {
	node  *node
	key   nodemachine.Key
	gpus  []string
	epoch int64
	alive bool
	// exit is the durable record; nil when the machine died under it.
	exit *fettlev1.Exit
	// real is what truly happened.
	code int32
}

func newNode(s *sim, i int) *node {
	return &node{sim: s, name: fmt.Sprintf("n%d", i), skewMS: s.between(0, 1_000_000), dirs: map[nodemachine.Key]*shim{}}
}

func (n *node) clock() int64 { return n.sim.now + n.skewMS }

func (n *node) inventory() *fettlev1.Inventory {
	inv := &fettlev1.Inventory{Cpus: cpusPerNode, MemoryMib: 1 << 20, Address: n.name}
	for i := range gpusPerNode {
		inv.Gpus = append(inv.Gpus, &fettlev1.GPU{Index: uint32(i), Uuid: fmt.Sprintf("GPU-%s-%d", n.name, i), Type: "h100"})
	}
	return inv
}

// boot starts the daemon over what is on disk.
func (n *node) boot() {
	if n.off {
		return
	}
	n.up = true
	n.gen++
	n.written, n.syncing = nil, false
	n.machine = nodemachine.New(nodemachine.Config{Node: n.name, ResendMS: 2_000, SilenceMS: 2_500})
	var found []nodemachine.Found
	keys := make([]nodemachine.Key, 0, len(n.dirs))
	for k := range n.dirs {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, nodemachine.Key.Compare)
	for _, k := range keys {
		sh := n.dirs[k]
		f := nodemachine.Found{Key: k, State: nodemachine.FoundRunning}
		if !sh.alive && sh.exit != nil {
			f.State, f.Exit = nodemachine.FoundEnded, sh.exit
		}
		found = append(found, f)
	}
	n.sim.tracef("%s daemon starts: %d records, %d attempts found", n.name, len(n.disk), len(found))
	n.step(nodemachine.Boot{
		BootID: fmt.Sprintf("boot-%s-%d", n.name, n.boots), DaemonID: fmt.Sprintf("d-%s-%d", n.name, n.gen),
		Inventory: n.inventory(), Records: slices.Clone(n.disk), Found: found, Lease: n.lease,
	})
	for _, k := range keys {
		if sh := n.dirs[k]; sh != nil && !sh.alive && sh.exit == nil {
			sh.exit = &fettlev1.Exit{Code: -1, ShimLost: true}
			n.step(nodemachine.ShimEnded{Key: k, Exit: sh.exit})
		}
	}
	gen := n.gen
	n.tick(gen)
	n.sim.after(n.sim.between(10, 300), func() { n.connect(gen) })
}

func (n *node) tick(gen int) {
	if n.gen != gen {
		return
	}
	n.step(nodemachine.Tick{})
	n.sim.after(n.sim.between(200, 400), func() { n.tick(gen) })
}

// crash kills the daemon; a prefix of what was not synced may have reached the disk.
func (n *node) crash() {
	if !n.up {
		return
	}
	n.sim.stats.Crashes++
	n.sim.tracef("%s daemon is killed", n.name)
	n.halt()
	n.sim.after(n.sim.between(100, 6_000), func() {
		if !n.up {
			n.boot()
		}
	})
}

func (n *node) halt() {
	n.breakStream()
	n.up = false
	n.gen++
	keep := n.sim.rng.IntN(len(n.written) + 1)
	for _, a := range n.written[:keep] {
		n.disk = append(n.disk, a.Record)
	}
	n.written = nil
}

// reboot ends everything on the node; no exit record is written.
func (n *node) reboot() {
	n.sim.stats.Reboots++
	n.sim.tracef("%s reboots", n.name)
	if n.up {
		n.halt()
	}
	n.end()
	n.boots++
	n.skewMS = 0
	n.lease = nodemachine.Lease{}
	gen := n.gen
	n.sim.after(n.sim.between(500, 15_000), func() {
		if !n.up && n.gen == gen {
			n.boot()
		}
	})
}

// isolate cuts the node off from all controllers for a while.
func (n *node) isolate(ms int64) {
	n.sim.tracef("%s is cut off for %d ms", n.name, ms)
	n.isolatedUntil = n.sim.now + ms
	n.breakStream()
}

// vanish takes the node away for good: its power is gone, or its network, while what runs there runs on.
func (n *node) vanish(power bool) {
	n.sim.tracef("%s is gone for good", n.name)
	if !power {
		n.isolate(1 << 50)
		return
	}
	if n.up {
		n.halt()
	}
	n.gen++
	n.off = true
	n.end()
}

// end ends all processes on the node without a record.
func (n *node) end() {
	for _, sh := range n.dirs {
		sh.alive = false
	}
}

// alive reports whether anything that an attempt started runs on the node.
func (n *node) alive() bool {
	for _, sh := range n.sim.shims {
		if sh.node == n && sh.alive {
			return true
		}
	}
	return false
}

func (n *node) breakStream() {
	if n.stream != nil {
		n.sim.stats.Breaks++
		n.stream.close("broken")
	}
}

func (n *node) connect(gen int) {
	if !n.up || n.gen != gen || n.stream != nil {
		return
	}
	c := n.sim.controllers[n.sim.rng.IntN(len(n.sim.controllers))]
	if n.sim.now < n.isolatedUntil || !c.leading() {
		n.sim.after(n.sim.between(50, 400), func() { n.connect(gen) })
		return
	}
	n.sim.tracef("%s connects to c%d", n.name, c.id)
	n.stream = &stream{sim: n.sim, node: n, ctl: c, nodeGen: n.gen, ctlGen: c.gen, term: c.term}
	n.step(nodemachine.Connected{})
}

func (n *node) step(in nodemachine.Input) {
	if !n.up {
		return
	}
	for _, o := range n.machine.Step(n.clock(), in) {
		n.carryOut(o)
	}
}

func (n *node) carryOut(o nodemachine.Output) {
	gen := n.gen
	switch o := o.(type) {
	case nodemachine.Append:
		n.written = append(n.written, o)
		if !n.syncing {
			n.syncing = true
			delay := n.sim.between(1, 4)
			if n.sim.chance(0.05) {
				delay += n.sim.between(50, 3_000)
			}
			n.sim.after(delay, func() { n.sync(gen) })
		}
	case nodemachine.StartShim:
		if n.sim.chance(0.03) {
			// The worst moment: between the decision and what follows from it.
			n.sim.after(n.sim.between(0, 10), func() {
				if n.gen == gen {
					n.crash()
				}
			})
		}
		n.sim.after(n.sim.between(1, 8), func() { n.startShim(gen, o) })
	case nodemachine.StopShim:
		if sh := n.dirs[o.Key]; sh != nil {
			n.sim.after(n.sim.between(0, o.GraceMS), func() { sh.end(&fettlev1.Exit{Code: -1, Signal: 15}) })
		}
	case nodemachine.SetLease:
		n.lease = o.Lease
		n.watchLease()
	case nodemachine.Send:
		if n.stream != nil {
			n.stream.toController(o.Msg)
		}
	case nodemachine.CloseSession:
		if n.stream != nil {
			n.stream.close(o.Reason)
		}
	case nodemachine.Forget:
		if sh := n.dirs[o.Key]; sh != nil && sh.alive {
			n.sim.fail("%s forgets %v while it runs", n.name, o.Key)
		}
		delete(n.dirs, o.Key)
	}
}

func (n *node) sync(gen int) {
	if n.gen != gen {
		return
	}
	n.syncing = false
	var upto uint64
	for _, a := range n.written {
		n.disk = append(n.disk, a.Record)
		upto = a.Seq
	}
	n.written = nil
	n.step(nodemachine.JournalSynced{Upto: upto})
}

func (n *node) startShim(gen int, o nodemachine.StartShim) {
	if n.off {
		return
	}
	if n.gen != gen && (n.up || n.sim.rng.IntN(2) == 0) {
		// The daemon died between deciding and forking; only sometimes was the fork made.
		return
	}
	if n.gen != gen && n.boots > 0 && n.sim.rng.IntN(4) > 0 {
		return
	}
	sim := n.sim
	if sim.chance(0.04) {
		if n.gen == gen {
			n.step(nodemachine.ShimFailed{Key: o.Key, Exit: &fettlev1.Exit{Code: -1, NeverStarted: true, UserError: sim.rng.IntN(2) == 0, Detail: "simulated"}})
		}
		return
	}
	sh := &shim{node: n, key: o.Key, gpus: o.Prepare.GetAllocation().GetGpuUuids(), epoch: o.LeaseEpochMS, alive: true}
	sim.checkStart(sh, o.Prepare)
	n.dirs[o.Key] = sh
	sim.shims = append(sim.shims, sh)
	sim.stats.Started++
	sim.tracef("%s starts job %d attempt %d", n.name, o.Key.Job, o.Key.Attempt)
	if n.gen == gen {
		n.step(nodemachine.ShimStarted{Key: o.Key})
	}
	n.watchLease()
	code := int32(0)
	if sim.rng.IntN(5) == 0 {
		code = int32(sim.between(1, 3))
	}
	class := fettlev1.ExitClass_EXIT_CLASS_UNSPECIFIED
	if code == 3 {
		class = fettlev1.ExitClass_EXIT_CLASS_TRANSIENT
	}
	sim.after(sim.between(5, 20_000), func() { sh.end(&fettlev1.Exit{Code: code, Class: class}) })
}

// watchLease ends the fenced attempts whose lease is over: the shims' own doing, also when the daemon is dead.
func (n *node) watchLease() {
	boots := n.boots
	check := func() {
		if n.boots != boots {
			return
		}
		for _, sh := range n.sim.shims {
			if sh.node == n && sh.alive && sh.epoch != 0 && (n.clock() >= n.lease.DeadlineMS || n.lease.EpochMS != sh.epoch) {
				n.sim.tracef("%s: lease of job %d attempt %d is over", n.name, sh.key.Job, sh.key.Attempt)
				sh.end(&fettlev1.Exit{Code: -1, Signal: 9, LeaseExpired: true})
			}
		}
	}
	if n.lease.DeadlineMS > 0 {
		n.sim.after(n.lease.DeadlineMS-n.clock(), check)
	}
}

// end is the end of an attempt's processes, with a durable record.
func (sh *shim) end(exit *fettlev1.Exit) {
	if !sh.alive {
		return
	}
	sh.alive = false
	sh.exit, sh.code = exit, exit.GetCode()
	sh.node.sim.tracef("%s: job %d attempt %d ends with %d", sh.node.name, sh.key.Job, sh.key.Attempt, exit.GetCode())
	n, gen := sh.node, sh.node.gen
	n.sim.after(n.sim.between(0, 20), func() {
		if n.gen == gen {
			n.step(nodemachine.ShimEnded{Key: sh.key, Exit: exit})
		}
	})
}

// stream is one connection between a node and a controller: ordered in each direction until it breaks.
type stream struct {
	sim             *sim
	node            *node
	ctl             *controller
	nodeGen, ctlGen int
	term            uint64
	id              session.ConnID
	closed          bool
	upAt, downAt    int64
}

// latency delivers in order: never before the message ahead.
func (st *stream) latency(last *int64) int64 {
	d := st.sim.between(0, 3)
	if st.sim.chance(0.03) {
		d += st.sim.between(20, 1_500)
	}
	*last = max(*last, st.sim.now+d)
	return *last - st.sim.now
}

func (st *stream) toController(m *fettlev1.NodeMessage) {
	m = proto.Clone(m).(*fettlev1.NodeMessage)
	times := 1
	if m.GetReport() != nil && st.sim.chance(0.05) {
		times = 2
	}
	for range times {
		st.sim.after(st.latency(&st.upAt), func() { st.arriveUp(m) })
	}
}

func (st *stream) arriveUp(m *fettlev1.NodeMessage) {
	c := st.ctl
	if st.closed {
		return
	}
	if c.gen != st.ctlGen || c.term != st.term || c.machine == nil {
		st.close("no longer the leader")
		return
	}
	snap := c.fsm.Store().Snapshot()
	switch msg := m.GetMsg().(type) {
	case *fettlev1.NodeMessage_Hello:
		id, outs, err := c.machine.Hello(msg.Hello)
		if err != nil {
			st.close(err.Error())
			return
		}
		st.id = id
		c.conns[id] = st
		c.do(outs)
	case *fettlev1.NodeMessage_Heartbeat:
		c.do(c.machine.Heartbeat(st.id, msg.Heartbeat, c.bootMS(), c.verifiedMS()))
	case *fettlev1.NodeMessage_Report:
		c.do(c.machine.Report(st.id, msg.Report, snap))
	}
}

func (st *stream) toNode(m *fettlev1.ControllerMessage) {
	m = proto.Clone(m).(*fettlev1.ControllerMessage)
	n := st.node
	wait := st.latency(&st.downAt)
	if m.GetPrepare() != nil && st.sim.chance(0.03) {
		// An order that others overtake.
		wait += st.sim.between(100, 3_000)
	}
	st.sim.after(wait, func() {
		if st.closed || n.stream != st || n.gen != st.nodeGen {
			return
		}
		n.recent = append(n.recent, m)
		if len(n.recent) > 30 {
			n.recent = n.recent[1:]
		}
		n.step(nodemachine.Received{Msg: proto.Clone(m).(*fettlev1.ControllerMessage)})
		if st.sim.chance(0.03) {
			// An order of this or an earlier session comes once more.
			old := n.recent[st.sim.rng.IntN(len(n.recent))]
			if old.GetWelcome() == nil && old.GetLease() == nil {
				n.step(nodemachine.Received{Msg: proto.Clone(old).(*fettlev1.ControllerMessage)})
			}
		}
	})
}

// close breaks the stream: what was on its way is lost, and each side learns of it in its own time.
func (st *stream) close(reason string) {
	if st.closed {
		return
	}
	st.sim.tracef("stream of %s to c%d ends: %s", st.node.name, st.ctl.id, reason)
	st.closed = true
	n, c := st.node, st.ctl
	st.sim.after(st.sim.between(0, 50), func() {
		if n.stream == st {
			n.stream = nil
			n.step(nodemachine.SessionLost{})
			gen := n.gen
			n.sim.after(n.sim.between(20, 500), func() { n.connect(gen) })
		}
	})
	st.sim.after(st.sim.between(0, 3_000), func() {
		if c.gen == st.ctlGen && c.term == st.term && c.machine != nil && c.conns[st.id] == st {
			delete(c.conns, st.id)
			c.machine.Disconnected(st.id)
		}
	})
}
