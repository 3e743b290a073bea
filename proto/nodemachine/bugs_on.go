//go:build fettlebugs

package nodemachine

import "fmt"

var (
	bugIntentNotSynced        bool
	bugNoTombstone            bool
	bugExitForgottenBeforeAck bool
	bugObeysOldSession        bool
	bugStartTwice             bool
	bugLeaseIgnored           bool
)

var bugs = map[string]*bool{
	"intent_not_synced":         &bugIntentNotSynced,
	"no_tombstone":              &bugNoTombstone,
	"exit_forgotten_before_ack": &bugExitForgottenBeforeAck,
	"obeys_old_session":         &bugObeysOldSession,
	"start_twice":               &bugStartTwice,
	"lease_ignored":             &bugLeaseIgnored,
}

// SetBug turns a seeded bug on or off.
func SetBug(name string, on bool) error {
	b, ok := bugs[name]
	if !ok {
		return fmt.Errorf("nodemachine: no seeded bug %q", name)
	}
	*b = on
	return nil
}
