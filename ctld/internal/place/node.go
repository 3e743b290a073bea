package place

import (
	"cmp"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// MaxCards is how many cards of a node placement sees: the model's limit on what a node may declare.
const MaxCards = 64

// GPU is one card, or one slice of a card, as placement sees it.
type GPU struct {
	UUID  string
	Type  string
	Index uint32
	// MemMiB is the card's memory; 0 when unknown: such a card is not shared.
	MemMiB int64
	// Usable is false for a card that must not be given away (unhealthy, cut into slices).
	Usable bool
	// BusyOutside is true while something that no attempt owns runs on the card: it is not given away until that ends.
	BusyOutside bool
	// Island is equal and above 0 for cards of one node that NVLink joins; 0 for a card without.
	Island int
	// NUMA is the card's NUMA node; below 0 when unknown.
	NUMA int
	// Free is read by NewCluster only: see there.
	Free bool
}

// Node is what placement knows of one node: facts, not what is held on it.
type Node struct {
	Name string
	// Ready nodes take new attempts: up, in contact and not drained.
	Ready bool
	// CPUs and MemMiB are what the node has.
	CPUs   uint32
	MemMiB int64
	// GPUs are at most MaxCards, in any order; later ones are not seen.
	GPUs []GPU
	// Features are the words that constraints refer to.
	Features []string
	// Switch is the switch that the node hangs on; empty when unknown.
	Switch string
	// CPUsFree and MemFreeMiB are read by NewCluster only: see there.
	CPUsFree   uint32
	MemFreeMiB int64
}

// FromInventory turns what a node offers into facts for SetNode. Ready and what is busy outside are the caller's to fill in.
// A card that is cut into slices is not usable itself.
func FromInventory(name string, inv *fettlev1.Inventory) Node {
	n := Node{Name: name, CPUs: inv.GetCpus(), MemMiB: inv.GetMemoryMib(), Features: inv.GetFeatures(), Switch: inv.GetSwitchName()}
	gpus := inv.GetGpus()
	if len(gpus) == 0 {
		return n
	}
	islands := islandsOf(gpus)
	var parents []string
	for _, g := range gpus {
		if g.GetMigParent() != "" {
			parents = append(parents, g.GetMigParent())
		}
	}
	n.GPUs = make([]GPU, len(gpus))
	for i, g := range gpus {
		n.GPUs[i] = GPU{
			UUID: g.GetUuid(), Type: g.GetType(), Index: g.GetIndex(), MemMiB: g.GetMemoryMib(), NUMA: int(g.GetNumaNode()), Island: islands[i],
			Usable: !g.GetUnhealthy() && !slices.Contains(parents, g.GetUuid()),
		}
	}
	return n
}

// islandsOf numbers the sets of cards that NVLink joins, from 1; cards without links get 0.
func islandsOf(gpus []*fettlev1.GPU) []int {
	islands := make([]int, len(gpus))
	byIndex := make(map[uint32]int, len(gpus))
	for i, g := range gpus {
		// Slices have their card's index, but no links.
		if g.GetMigParent() == "" {
			byIndex[g.GetIndex()] = i
		}
	}
	next := 0
	for i, g := range gpus {
		if islands[i] != 0 || len(g.GetLinks()) == 0 {
			continue
		}
		next++
		islands[i] = next
		for todo := []int{i}; len(todo) > 0; {
			k := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for _, l := range gpus[k].GetLinks() {
				if p, ok := byIndex[l.GetPeer()]; ok && islands[p] == 0 {
					islands[p] = next
					todo = append(todo, p)
				}
			}
		}
	}
	return islands
}

// sortCards orders cards so that choices do not depend on the order in which a node lists them.
func sortCards(gpus []GPU) {
	slices.SortFunc(gpus, func(a, b GPU) int { return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.UUID, b.UUID)) })
}

// sameFacts reports whether two nodes, their cards sorted, differ in nothing that SetNode reads.
func sameFacts(a, b *Node) bool {
	return a.Ready == b.Ready && sameOffer(a, b) && sameBusy(a, b)
}

// sameOffer is sameFacts but for whether the node is ready and its cards busy outside: what a node could hold were it idle.
func sameOffer(a, b *Node) bool {
	return a.Name == b.Name && a.CPUs == b.CPUs && a.MemMiB == b.MemMiB && a.Switch == b.Switch && slices.Equal(a.Features, b.Features) &&
		slices.EqualFunc(a.GPUs, b.GPUs, func(x, y GPU) bool {
			x.BusyOutside, x.Free, y.BusyOutside, y.Free = false, false, false, false
			return x == y
		})
}

// sameBusy reports whether the same cards are busy outside.
func sameBusy(a, b *Node) bool {
	return slices.EqualFunc(a.GPUs, b.GPUs, func(x, y GPU) bool { return x.BusyOutside == y.BusyOutside })
}
