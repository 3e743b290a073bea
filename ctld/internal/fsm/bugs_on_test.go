//go:build fettlebugs

package fsm

import (
	"flag"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// quiet takes a property's failure without failing the test.
type quiet struct {
	testing.TB
	failed bool
	text   string
}

type stop struct{}

func (q *quiet) Helper()                   {}
func (q *quiet) Name() string              { return "quiet" }
func (q *quiet) Log(...any)                {}
func (q *quiet) Logf(string, ...any)       {}
func (q *quiet) Failed() bool              { return q.failed }
func (q *quiet) Fail()                     { q.failed = true }
func (q *quiet) FailNow()                  { q.failed = true; panic(stop{}) }
func (q *quiet) Error(a ...any)            { q.failed, q.text = true, fmt.Sprint(a...) }
func (q *quiet) Errorf(f string, a ...any) { q.failed, q.text = true, fmt.Sprintf(f, a...) }
func (q *quiet) Fatal(a ...any)            { q.Error(a...); panic(stop{}) }
func (q *quiet) Fatalf(f string, a ...any) { q.Errorf(f, a...); panic(stop{}) }

// Every seeded bug is found by the random histories, so these would find its like.
func TestSeededBugsAreFound(t *testing.T) {
	for flagName, v := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "1ms", "rapid.checks": "400"} {
		old := flag.Lookup(flagName).Value.String()
		if err := flag.Set(flagName, v); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flag.Set(flagName, old) })
	}
	t.Cleanup(func() { SetBug("") })
	for _, name := range append(Bugs(), "") {
		SetBug(name)
		q := &quiet{TB: t}
		func() {
			defer func() {
				if p := recover(); p != nil && p != any(stop{}) {
					panic(p)
				}
			}()
			for _, property := range []func(*rapid.T){worldProperty, tenancyProperty} {
				rapid.Check(q, property)
			}
		}()
		switch {
		case name == "" && q.failed:
			t.Errorf("something was found without a bug: %s", q.text)
		case name != "" && !q.failed:
			t.Errorf("%s was not found", name)
		default:
			t.Logf("%q: %s", name, q.text)
		}
	}
}
