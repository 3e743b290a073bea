//go:build !fettlebugs

package nodemachine

// Seeded bugs are compiled out; with the build tag fettlebugs a test turns them on one by one.
const (
	bugIntentNotSynced        = false
	bugNoTombstone            = false
	bugExitForgottenBeforeAck = false
	bugObeysOldSession        = false
	bugStartTwice             = false
	bugLeaseIgnored           = false
)
