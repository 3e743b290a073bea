//go:build fettlebugs

package state

var bugBudgetIgnored bool

// BugBudgetIgnored is the switch of the seeded fault that lets a job be preempted again and again.
func BugBudgetIgnored() *bool { return &bugBudgetIgnored }
