package replay

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
	"github.com/fettle-hpc/fettle/ctld/internal/place"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// milliMiB is what a thousandth of a card counts in memory: workloads know shares and no memory, so every card gets the same.
const milliMiB = 64

// nodeOf declares a node. What a cluster's file leaves out there is plenty of.
func nodeOf(n *trace.Node) sched.Node {
	node := place.Node{Name: n.Name, Ready: true, CPUs: math.MaxUint16, MemMiB: n.MemMiB}
	if n.CPUMilli > 0 {
		node.CPUs = uint32(min(max(n.CPUMilli/1000, 1), math.MaxUint16))
	}
	if node.MemMiB == 0 {
		node.MemMiB = math.MaxInt32
	}
	for g := range n.GPUs {
		node.GPUs = append(node.GPUs, place.GPU{UUID: fmt.Sprintf("%s/%d", n.Name, g), Type: n.Type, Index: uint32(g), MemMiB: 1000 * milliMiB, Usable: true, NUMA: -1})
	}
	return sched.Node{Node: node}
}

// wants turns what jobs ask for into requests, one for all that ask for the same.
type wants struct {
	nodes  trace.Cluster
	shares bool
	known  map[string]*sched.Needs
}

func newWants(nodes trace.Cluster, shares bool) *wants {
	return &wants{nodes: nodes, shares: shares, known: map[string]*sched.Needs{}}
}

func (w *wants) of(j *trace.Job) *sched.Needs {
	milli := 0
	if w.shares {
		milli = j.GPUMilli
	}
	key := fmt.Sprintf("%d %d %d %d %s", j.GPUs, milli, j.CPUMilli, j.MemMiB, strings.Join(j.Types, "|"))
	n, ok := w.known[key]
	if !ok {
		n = &sched.Needs{Partition: partition, Request: w.request(j, milli)}
		w.known[key] = n
	}
	return n
}

// request asks for all GPUs on one node where an allowed node has so many, else for whole nodes of the largest allowed kind; when
// the GPUs do not fill those, for as few nodes as will do.
func (w *wants) request(j *trace.Job, milli int) place.Request {
	largest := 0
	for i := range w.nodes {
		if n := &w.nodes[i]; len(j.Types) == 0 || slices.Contains(j.Types, n.Type) {
			largest = max(largest, n.GPUs)
		}
	}
	r := place.Request{Nodes: 1, GPUs: j.GPUs}
	if largest > 0 && j.GPUs > largest {
		r.Nodes = (j.GPUs + largest - 1) / largest
		if r.GPUs = largest; j.GPUs%largest != 0 {
			r.GPUs, r.Total = j.GPUs, true
		}
	}
	if milli > 0 {
		r.VRAMMiB = int64(milli) * milliMiB
	}
	if len(j.Types) > 0 {
		r.GPUType = j.Types[0]
		for _, t := range j.Types[1:] {
			r.Alternatives = append(r.Alternatives, place.GPUChoice{Type: t, Count: r.GPUs})
		}
	}
	nodes := int64(r.Nodes)
	r.CPUs, r.MemMiB = uint32(max((j.CPUMilli/nodes+999)/1000, 1)), j.MemMiB/nodes
	return r
}

// demand is what the workload asks for, weighted by GPU time as its operator would know it from accounting.
func demand(jobs []trace.Job) []place.Demand {
	type kind struct {
		typ  string
		gpus int
	}
	sums := map[kind]int64{}
	for i := range jobs {
		j := &jobs[i]
		typ := ""
		if len(j.Types) == 1 {
			typ = j.Types[0]
		}
		sums[kind{typ, j.GPUs}] += j.Service()
	}
	var out []place.Demand
	for k := range maps.Keys(sums) {
		out = append(out, place.Demand{Type: k.typ, GPUs: k.gpus, Weight: sums[k]})
	}
	return out
}

// floor counts what is used, card by card, for the figures.
type floor struct {
	nodes map[string]*floorNode
	// used GPUs, and partly: free ones on nodes that are partly used.
	used, partly int
}

type floorNode struct {
	gpus, used int
	holders    map[string]int
}

func newFloor(nodes trace.Cluster) *floor {
	f := &floor{nodes: make(map[string]*floorNode, len(nodes))}
	for i := range nodes {
		f.nodes[nodes[i].Name] = &floorNode{gpus: nodes[i].GPUs, holders: map[string]int{}}
	}
	return f
}

// loose are a node's free GPUs if some are used.
func (n *floorNode) loose() int {
	if n.used == 0 {
		return 0
	}
	return n.gpus - n.used
}

// give counts allocations as given, or as given back with by = -1.
func (f *floor) give(allocs []*fettlev1.NodeAllocation, by int) {
	for _, a := range allocs {
		n := f.nodes[a.GetNode()]
		f.used, f.partly = f.used-n.used, f.partly-n.loose()
		for _, uuid := range a.GetGpuUuids() {
			was := n.holders[uuid]
			switch now := was + by; {
			case now == 0:
				delete(n.holders, uuid)
				n.used--
			case was == 0:
				n.used++
				fallthrough
			default:
				n.holders[uuid] = now
			}
		}
		f.used, f.partly = f.used+n.used, f.partly+n.loose()
	}
}
