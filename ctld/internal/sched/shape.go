package sched

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/btree"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// shape is what jobs with equal needs share.
type shape struct {
	needs *Needs
	key   string
	refs  int
	lane  *lane
	// eligible could hold a share if they were idle; as of version.
	eligible place.NodeSet
	version  uint64
	// unfit says why no nodes could ever hold the job, nil when some could.
	unfit *Wait

	// What a plan found, valid in the plan numbered seen. Jobs that would end at or after hard (by a limit) or soft (by an
	// estimate) do not fit; resources only shrink within a plan, so that stands.
	seen       uint64
	tried      bool
	hard, soft int64
	// away says that too few of the nodes are up.
	away bool
}

// class are jobs that compete for the same cards: types, partition and restrictions to nodes are equal.
type class struct {
	key, partition, reservation string
	// What a plan found, valid in the plan numbered seen.
	seen  uint64
	heads int
}

// lane are waiting jobs of a class that ask for equally many cards and nodes, in queue order.
type lane struct {
	key   string
	class *class
	tree  *btree.BTreeG[*entry]
	// probe is the least that a job of the lane asks for.
	probe place.Request
	// fittings are valid for one version of the facts.
	version  uint64
	fittings map[fittingKey]fitting
	// dead says that not even that fits: valid in the plan numbered seen. probed is the number of starts at the newest probe,
	// failures what did not fit.
	seen     uint64
	dead     bool
	probed   int
	failures []failure
}

func before(a, b *entry) bool {
	if a.Score != b.Score {
		return a.Score < b.Score
	}
	return a.ID < b.ID
}

func newTree() *btree.BTreeG[*entry] { return btree.NewG(32, before) }

// wanted are needs within a reservation.
type wanted struct {
	needs       *Needs
	reservation string
}

// intern finds or makes the shape of needs.
func (p *Planner) intern(n *Needs, reservation string) *shape {
	w := wanted{n, reservation}
	if s, ok := p.byNeeds[w]; ok {
		return s
	}
	k := keysOf(n, reservation)
	s, ok := p.shapes[k.shape]
	if !ok {
		s = &shape{needs: n, key: k.shape, version: ^uint64(0), lane: p.laneOf(n, k, reservation)}
		p.shapes[k.shape] = s
	}
	if len(p.byNeeds) > 4*len(p.shapes)+1024 {
		clear(p.byNeeds)
	}
	p.byNeeds[w] = s
	return s
}

// release gives up one use of a shape; unused ones are forgotten when there are many.
func (p *Planner) release(s *shape) {
	if s.refs--; s.refs > 0 {
		return
	}
	if p.idleShapes++; p.idleShapes > 1024 && p.idleShapes > len(p.shapes)/2 {
		p.sweep()
	}
}

// sweep forgets shapes, lanes and classes that no job has.
func (p *Planner) sweep() {
	p.idleShapes = 0
	clear(p.byNeeds)
	lanes, classes := map[*lane]bool{}, map[*class]bool{}
	for key, s := range p.shapes {
		if s.refs == 0 {
			delete(p.shapes, key)
			continue
		}
		lanes[s.lane], classes[s.lane.class] = true, true
	}
	maps.DeleteFunc(p.lanes, func(_ string, l *lane) bool { return !lanes[l] })
	maps.DeleteFunc(p.classes, func(_ string, c *class) bool { return !classes[c] })
}

// laneOf finds or makes the lane of needs.
func (p *Planner) laneOf(n *Needs, k keys, reservation string) *lane {
	if l, ok := p.lanes[k.lane]; ok {
		return l
	}
	c, ok := p.classes[k.class]
	if !ok {
		c = &class{key: k.class, partition: n.Partition, reservation: reservation}
		p.classes[k.class] = c
	}
	l := &lane{key: k.lane, class: c, tree: newTree(), probe: n.Request}
	l.probe.CPUs, l.probe.MemMiB = 1, 0
	p.lanes[k.lane] = l
	return l
}

// keys tell shapes, lanes and classes apart.
type keys struct{ shape, lane, class string }

func keysOf(n *Needs, reservation string) keys {
	r := &n.Request
	var b strings.Builder
	num := func(tag byte, v int64) {
		if v != 0 {
			b.WriteByte(tag)
			b.WriteString(strconv.FormatInt(v, 36))
		}
	}
	list := func(tag byte, names []string) {
		for _, n := range slices.Sorted(slices.Values(names)) {
			b.WriteByte(tag)
			b.WriteString(n)
		}
	}
	// What may be used.
	b.WriteString(n.Partition)
	b.WriteByte('|')
	b.WriteString(reservation)
	b.WriteByte('|')
	types := []string{}
	for i := -1; i < len(r.Alternatives); i++ {
		c := place.GPUChoice{Type: r.GPUType, Count: r.GPUs}
		if i >= 0 {
			c = r.Alternatives[i]
		}
		if c.Count > 0 {
			types = append(types, c.Type)
		}
	}
	if slices.Contains(types, "") {
		types = []string{"*"}
	}
	slices.Sort(types)
	for _, t := range slices.Compact(types) {
		b.WriteString(t)
		b.WriteByte(',')
	}
	list('+', r.Nodelist)
	list('-', r.Exclude)
	list('#', r.DeviceUUIDs)
	for _, i := range r.DeviceIndexes {
		num(':', int64(i)+1)
	}
	if r.Constraint != nil {
		fmt.Fprintf(&b, "&%v", r.Constraint)
	}
	k := keys{class: b.String()}
	// How much on each node.
	b.WriteByte('|')
	num('n', int64(r.Nodes))
	b.WriteByte('|')
	b.WriteString(r.GPUType)
	num('g', int64(r.GPUs))
	for _, c := range r.Alternatives {
		b.WriteByte('/')
		b.WriteString(c.Type)
		num('g', int64(c.Count))
	}
	num('v', r.VRAMMiB)
	num('w', r.MinCardMiB)
	for i, on := range []bool{r.Total, r.Even, r.Exclusive} {
		if on {
			num('t', int64(i)+1)
		}
	}
	k.lane = b.String()
	b.WriteByte('|')
	b.WriteString(n.Method)
	num('c', int64(r.CPUs))
	num('m', r.MemMiB)
	k.shape = b.String()
	return k
}

// check finds the nodes that could hold a share of a shape, when facts have changed since it last did.
func (p *Planner) check(s *shape) {
	if s.version == p.facts() {
		return
	}
	s.version = p.facts()
	s.eligible, s.unfit = place.NodeSet{}, nil
	part, ok := p.partitions[s.needs.Partition]
	if !ok || part.Down {
		s.unfit = &Wait{fettlev1.Reason_REASON_PARTITION_DOWN, "partition " + s.needs.Partition + " is down"}
		return
	}
	f := p.fitting(s.lane, s.needs, part)
	s.eligible, s.unfit = f.eligible, f.unfit
}

// fitting is what jobs of a lane find whose CPUs, memory and launcher rule out the same nodes.
type fitting struct {
	eligible place.NodeSet
	unfit    *Wait
}

type fittingKey struct {
	// The first of the sizes that nodes have that suffices.
	cpus, mem int
	method    string
}

func (p *Planner) fitting(l *lane, n *Needs, part *Partition) fitting {
	if l.fittings == nil || l.version != p.facts() {
		l.version, l.fittings = p.facts(), map[fittingKey]fitting{}
	}
	p.sizes.update(p)
	req := &n.Request
	cpus, _ := slices.BinarySearch(p.sizes.cpus, max(req.CPUs, 1))
	mem, _ := slices.BinarySearch(p.sizes.mem, req.MemMiB)
	key := fittingKey{cpus, mem, n.Method}
	f, ok := l.fittings[key]
	if !ok {
		f = p.fittingOf(n, part)
		l.fittings[key] = f
	}
	return f
}

func (p *Planner) fittingOf(n *Needs, part *Partition) fitting {
	req := &n.Request
	set := p.cluster.Eligible(req)
	if part.Allows != nil {
		set = set.And(p.partitionNodes(part))
	}
	if n.Method != "" {
		set = set.And(p.withLauncher(n.Method))
	}
	none := Wait{fettlev1.Reason_REASON_NO_SUITABLE_NODE, "no node has what it asks for"}
	if pinned, _ := p.cluster.Pinned(req); !pinned.Without(set).Empty() {
		return fitting{unfit: &none}
	}
	have, want := set.Len(), span(req)
	switch {
	case have == 0:
		return fitting{unfit: &none}
	case have < want:
		return fitting{unfit: &Wait{fettlev1.Reason_REASON_NO_SUITABLE_NODE, "it asks for " + strconv.Itoa(want) + " nodes, only " + strconv.Itoa(have) + " could hold a share"}}
	case !p.cluster.CouldPlace(req, set):
		return fitting{unfit: &Wait{fettlev1.Reason_REASON_NO_SUITABLE_NODE, "the nodes that could hold a share of it do not have enough in all"}}
	}
	return fitting{eligible: set}
}

// sizes are the CPUs and the memory that nodes have, each size once, ascending.
type sizes struct {
	version uint64
	cpus    []uint32
	mem     []int64
}

func (z *sizes) update(p *Planner) {
	if z.version == p.facts() {
		return
	}
	z.version, z.cpus, z.mem = p.facts(), nil, nil
	cpus, mem := map[uint32]bool{}, map[int64]bool{}
	for i := range p.cluster.Len() {
		if n := p.cluster.Node(i); n != nil {
			cpus[n.CPUs], mem[n.MemMiB] = true, true
		}
	}
	z.cpus, z.mem = slices.Sorted(maps.Keys(cpus)), slices.Sorted(maps.Keys(mem))
}

// span is how many nodes a request needs at least.
func span(r *place.Request) int {
	if r.Total {
		return 1
	}
	return max(r.Nodes, 1)
}

// facts changes whenever what shapes are eligible for can have changed.
func (p *Planner) facts() uint64 { return p.cluster.Version() + p.revision }

// nodeSets are sets of nodes by a name, valid for one version of the facts.
type nodeSets struct {
	version uint64
	sets    map[string]place.NodeSet
}

func (n *nodeSets) get(version uint64, name string, make func() place.NodeSet) place.NodeSet {
	if n.sets == nil || n.version != version {
		n.version, n.sets = version, map[string]place.NodeSet{}
	}
	s, ok := n.sets[name]
	if !ok {
		s = make()
		n.sets[name] = s
	}
	return s
}

func (p *Planner) nodesWith(has func(i int) bool) place.NodeSet {
	s := place.NewNodeSet(p.cluster.Len())
	for i := range p.cluster.Len() {
		if p.cluster.Name(i) != "" && has(i) {
			s.Add(i)
		}
	}
	return s
}

func (p *Planner) partitionNodes(part *Partition) place.NodeSet {
	return p.partSets.get(p.facts(), part.Name, func() place.NodeSet {
		return p.nodesWith(func(i int) bool { return part.Allows == nil || part.Allows(p.cluster.Name(i)) })
	})
}

// nodesOf are the nodes of a partition.
func (p *Planner) nodesOf(partition string) place.NodeSet {
	if part, ok := p.partitions[partition]; ok {
		return p.partitionNodes(part)
	}
	return place.NodeSet{}
}

// withLauncher are the nodes that have the launcher of a method.
func (p *Planner) withLauncher(method string) place.NodeSet {
	return p.methodSets.get(p.facts(), method, func() place.NodeSet {
		return p.nodesWith(func(i int) bool { return slices.Contains(p.methods[p.cluster.Name(i)], method) })
	})
}
