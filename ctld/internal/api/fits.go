package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// capacity is the nodes as they would be with nothing running, kept for a moment because every submit asks.
type capacity struct {
	mu      sync.Mutex
	at      time.Time
	cluster *place.Cluster
}

// capacityFor is how long a view of the nodes serves for warnings.
const capacityFor = time.Second

// eligible is how many of the nodes that the partition allows could hold a share of the request.
func (c *capacity) eligible(snap *state.Snapshot, now time.Time, req *place.Request, part *state.Partition) (could int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cluster == nil || now.Sub(c.at) > capacityFor {
		var views []place.Node
		for n := range snap.Nodes {
			views = append(views, sched.NodeView(n, true))
		}
		c.cluster, c.at = place.NewCluster(views), now
	}
	for i := range c.cluster.Eligible(req).All() {
		if part == nil || part.Allows(c.cluster.Name(i)) {
			could++
		}
	}
	return could
}

// fits warns of what nothing that is registered today could ever meet: one line for each cause, with the flag that asks for
// it. Nodes may register later, so none of it is a reason to refuse the job. Names of nodes that are not there are told even
// when the job can do without them: they may be slips.
func (s *Server) fits(snap *state.Snapshot, spec *fettlev1.JobSpec) []string {
	if snap.Counts().Nodes == 0 {
		return []string{"no node has registered yet: the job waits until one does"}
	}
	lines := unknownNodes(snap, spec)
	req, part := sched.RequestOf(spec), snap.Partition(spec.GetPartition())
	could := s.capacity.eligible(snap, time.Now(), &req, part)
	if could >= req.Nodes {
		return lines
	}
	missed := shortfalls(snap, spec, part)
	if len(missed) == 0 && len(lines) == 0 {
		what := "no node has all of what it asks for"
		if could > 0 {
			what = fmt.Sprintf("only %d of the %d nodes it asks for have all of that", could, req.Nodes)
		}
		missed = []string{what + " (finfo shows what there is)"}
	}
	lines = append(lines, missed...)
	lines[len(lines)-1] += ": the job waits until nodes register that can hold it"
	return lines
}

// maxNamed bounds the nodes, types and GPUs that a warning names.
const maxNamed = 8

// few lists names in one word, the first of them when they are many.
func few(names []string) string {
	if len(names) <= maxNamed {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:maxNamed], ", ") + ", …"
}

// unknownNodes names the nodes of -w and -x that nobody has heard of.
func unknownNodes(snap *state.Snapshot, spec *fettlev1.JobSpec) (lines []string) {
	for _, l := range []struct {
		flag  string
		names []string
	}{{"-w", spec.GetNodelist()}, {"-x", spec.GetExclude()}} {
		var strange []string
		for _, n := range l.names {
			if snap.Node(n) == nil {
				strange = append(strange, n)
			}
		}
		if len(strange) == 0 {
			continue
		}
		word := "no node "
		if len(strange) > 1 {
			word = "no nodes "
		}
		var there []string
		for n := range snap.Nodes {
			if there = append(there, n.Name); len(there) > maxNamed {
				break
			}
		}
		be := "are"
		if len(there) == 1 {
			be = "is"
		}
		lines = append(lines, fmt.Sprintf("%s: %s%s (there %s %s)", l.flag, word, few(strange), be, few(there)))
	}
	return lines
}

// shortfalls says what there is not enough of, each need taken by itself on the nodes that the job may use at all.
func shortfalls(snap *state.Snapshot, spec *fettlev1.JobSpec, part *state.Partition) (lines []string) {
	want := int(max(spec.GetNodes(), 1))
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	inPartition, listed := 0, 0
	var usable []*state.Node
	for n := range snap.Nodes {
		if part != nil && !part.Allows(n.Name) {
			continue
		}
		inPartition++
		if len(spec.GetNodelist()) > 0 && !slices.Contains(spec.GetNodelist(), n.Name) {
			continue
		}
		listed++
		if !slices.Contains(spec.GetExclude(), n.Name) {
			usable = append(usable, n)
		}
	}
	switch {
	case inPartition < want:
		add("--nodes %d: partition %s has %s", want, spec.GetPartition(), counted(inPartition, "node"))
	case len(usable) < want && listed >= want:
		add("-x: leaves %s, the job asks for %d", counted(len(usable), "node"), want)
	}
	if len(usable) == 0 {
		return lines
	}
	// short adds a line unless enough nodes can meet one need.
	short := func(meets func(*state.Node) bool, flag, none string) {
		can := 0
		for _, n := range usable {
			if meets(n) {
				can++
			}
		}
		switch {
		case can >= min(want, len(usable)):
		case can == 0:
			add("%s: %s", flag, none)
		default:
			add("%s: only %s can meet that, the job asks for %d", flag, counted(can, "node"), want)
		}
	}
	cpus, mem := uint32(0), int64(0)
	for _, n := range usable {
		cpus, mem = max(cpus, n.Inventory.GetCpus()), max(mem, n.Inventory.GetMemoryMib())
	}
	short(func(n *state.Node) bool { return n.Inventory.GetCpus() >= spec.GetCpusPerNode() },
		fmt.Sprintf("--cpus %d", spec.GetCpusPerNode()), fmt.Sprintf("the largest node has %d", cpus))
	short(func(n *state.Node) bool { return n.Inventory.GetMemoryMib() >= spec.GetMemMibPerNode() },
		"--mem "+gres.FormatSize(spec.GetMemMibPerNode()), "the largest node has "+gres.FormatSize(mem))
	gpuShortfalls(usable, spec, short)
	return lines
}

// counted is a number with its noun: "no node", "1 node", "3 nodes".
func counted(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun
	case 1:
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// gpuShortfalls does the part of shortfalls that is about GPUs. Unhealthy ones are not there.
func gpuShortfalls(usable []*state.Node, spec *fettlev1.JobSpec, short func(meets func(*state.Node) bool, flag, none string)) {
	count, typ := model.GPUs(spec)
	if count == 0 {
		return
	}
	flag := "--gpus "
	if typ != "" {
		flag += typ + ":"
	}
	flag += strconv.Itoa(int(count))
	most, sick := 0, 0
	var types []string
	cards := map[string]string{}
	for _, n := range usable {
		of := map[string]int{}
		for _, g := range n.Inventory.GetGpus() {
			cards[g.GetUuid()] = n.Name
			if !slices.Contains(types, g.GetType()) && g.GetType() != "" {
				types = append(types, g.GetType())
			}
			if typ != "" && g.GetType() != typ {
				continue
			}
			if g.GetUnhealthy() {
				sick++
				continue
			}
			of[g.GetType()]++
			most = max(most, of[g.GetType()])
		}
	}
	slices.Sort(types)
	var none string
	switch {
	case len(cards) == 0:
		none = "no node has GPUs"
	case typ != "" && !slices.Contains(types, typ):
		none = "no node has GPUs of type " + typ
		if len(types) > 0 {
			none += " (there are " + few(types) + ")"
		}
	default:
		none = "the most that one node has is " + strconv.Itoa(most)
		if typ == "" && len(types) > 1 {
			none = "the most of one type that a node has is " + strconv.Itoa(most)
		}
		if sick > 0 {
			none += ", not counting unhealthy ones"
		}
	}
	enough := func(n *state.Node) bool { return healthy(n, typ, int(count)) }
	short(enough, flag, none)
	if len(cards) == 0 {
		return
	}
	for _, i := range spec.GetDeviceIndexes() {
		has := func(n *state.Node) bool {
			return slices.ContainsFunc(n.Inventory.GetGpus(), func(g *fettlev1.GPU) bool { return g.GetIndex() == i && !g.GetUnhealthy() })
		}
		short(has, fmt.Sprintf("--device cuda:%d", i), fmt.Sprintf("no node has a healthy GPU of that index, the highest is cuda:%d", highest(usable)))
	}
	for _, u := range spec.GetDeviceUuids() {
		if cards[u] == "" {
			short(func(*state.Node) bool { return false }, "--device "+u, "none of the nodes that it may use has that GPU (finfo -v lists them)")
		}
	}
}

// healthy says whether a node has so many GPUs of one type that may be given away.
func healthy(n *state.Node, typ string, count int) bool {
	of := map[string]int{}
	for _, g := range n.Inventory.GetGpus() {
		if g.GetUnhealthy() || typ != "" && g.GetType() != typ {
			continue
		}
		if of[g.GetType()]++; of[g.GetType()] >= count {
			return true
		}
	}
	return false
}

func highest(nodes []*state.Node) (index uint32) {
	for _, n := range nodes {
		for _, g := range n.Inventory.GetGpus() {
			if !g.GetUnhealthy() {
				index = max(index, g.GetIndex())
			}
		}
	}
	return index
}

// contradiction refuses what can never be met, whatever registers. It is asked at submit and not when the log is applied:
// jobs that are in the log stay valid.
func contradiction(spec *fettlev1.JobSpec) *model.FieldError {
	count, _ := model.GPUs(spec)
	total := int(count) * int(max(spec.GetNodes(), 1))
	pins, asked, per := len(spec.GetDeviceIndexes()), int(count), ""
	if n := len(spec.GetDeviceUuids()); n > 0 {
		pins, asked = n, total
	} else if spec.GetNodes() > 1 {
		per = " on each node"
	}
	if pins == 0 || pins >= asked {
		return nil
	}
	return &model.FieldError{Field: "device", Problem: fmt.Sprintf("names %s%s, the job asks for %d", counted(pins, "GPU"), per, asked),
		Remedy: "name all of them, or ask for as many GPUs as you name"}
}
