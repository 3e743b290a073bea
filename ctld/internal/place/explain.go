package place

import (
	"fmt"
	"strings"
)

// Missing is what a job lacks.
type Missing int

// What a job can lack, the more lasting first.
const (
	// MissingNothing: it fits now.
	MissingNothing Missing = iota
	// MissingNodes: too few of the nodes could hold a share if they were idle.
	MissingNodes
	// MissingReady: enough nodes could, but too few of them are up, in contact and not drained.
	MissingReady
	// MissingBusyOutside: it would fit but for cards that something outside of jobs uses.
	MissingBusyOutside
	// MissingGPUs: too few cards are free together.
	MissingGPUs
	// MissingVRAM: too few cards have enough memory left for a share.
	MissingVRAM
	// MissingCPUs: enough cards are free, but not with the CPUs.
	MissingCPUs
	// MissingMemory: enough cards are free, but not with the memory.
	MissingMemory
	// MissingIdleNodes: too few nodes have nobody on them.
	MissingIdleNodes
)

// Shortage says why a request cannot be placed.
type Shortage struct {
	What Missing
	// Type and Need are the choice that came closest: cards on each node, or in all for a total.
	Type string
	Need int
	// BestFree is the largest number of cards that are free on one node, and the nodes' sum for a total.
	BestFree int
	// Nodes is how many nodes are needed, Found how many would do now.
	Nodes, Found int
	// Amount and Best are, for CPUs and memory in MiB, what each node needs and the most that is free where the cards are.
	Amount, Best int64
	// Busy names some of the cards that are busy outside, as "node:index".
	Busy []string
}

// String is a short clause such as "needs 4 h100 on a node, at most 2 are free together"; empty when nothing is missing.
func (s Shortage) String() string {
	cards := func(n int) string {
		if s.Type == "" {
			return plural(n, "GPU")
		}
		return fmt.Sprintf("%d %s", n, s.Type)
	}
	where := " on a node"
	if s.Nodes > 1 {
		where = fmt.Sprintf(" on each of %d nodes", s.Nodes)
	}
	switch s.What {
	case MissingNothing:
		return ""
	case MissingNodes:
		if s.Found == 0 {
			return "no node has what it asks for"
		}
		return fmt.Sprintf("needs %s, only %d could hold a share", plural(s.Nodes, "node"), s.Found)
	case MissingReady:
		return "the nodes that could hold it are down, drained or out of contact"
	case MissingBusyOutside:
		return "something outside of jobs uses " + strings.Join(s.Busy, ", ")
	case MissingGPUs:
		if s.Nodes > 1 && s.BestFree >= s.Need {
			return fmt.Sprintf("needs %s%s, free on %d", cards(s.Need), where, s.Found)
		}
		return fmt.Sprintf("needs %s%s, at most %d free together", cards(s.Need), where, s.BestFree)
	case MissingVRAM:
		return fmt.Sprintf("needs %d MiB on %s%s, at most %d MiB are left on a card", s.Amount, cards(s.Need), where, s.Best)
	case MissingCPUs:
		return fmt.Sprintf("needs %s%s, at most %d free where the GPUs are", plural(int(s.Amount), "CPU"), where, s.Best)
	case MissingMemory:
		return fmt.Sprintf("needs %d MiB of memory%s, at most %d MiB free where the GPUs are", s.Amount, where, s.Best)
	case MissingIdleNodes:
		return fmt.Sprintf("needs %s to itself, %d idle", plural(s.Nodes, "node"), s.Found)
	}
	return ""
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
