//go:build !fettlebugs

package state

// bugBudgetIgnored is seeded by the simulation; see package fsm.
const bugBudgetIgnored = false
