package model

import (
	"math"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// The table in full: whoever changes it has to change it here too.
func TestMoves(t *testing.T) {
	t.Parallel()
	ends := "CD F CA TO OOM NF PR"
	want := map[fettlev1.JobState]string{
		Unspecified: "PD", Pending: "DI CA", Dispatching: "PD R CG FE " + ends, Running: "PD CG FE S " + ends,
		Suspended: "PD R CG FE " + ends, Completing: "PD FE " + ends, Fencing: "PD " + ends,
		Completed: "", Failed: "", Cancelled: "", Timeout: "", OutOfMemory: "", NodeFail: "", Preempted: "",
	}
	for from := Unspecified; int(from) < numStates; from++ {
		var got []string
		for to := Unspecified; int(to) < numStates; to++ {
			if CanMove(from, to) {
				got = append(got, Code(to))
			}
		}
		if strings.Join(got, " ") != want[from] {
			t.Errorf("%s may become %v, want %s", StateName(from), got, want[from])
		}
		if Terminal(from) && len(got) > 0 {
			t.Errorf("%s is terminal and moves on", StateName(from))
		}
		if Terminal(from) && HoldsResources(from) {
			t.Errorf("%s is over and holds resources", StateName(from))
		}
	}
	if CanMove(-1, Pending) || CanMove(99, Pending) || CanMove(Pending, 99) || CanMove(Pending, -1) || Terminal(99) || HoldsResources(-1) {
		t.Error("unknown states have moves")
	}
}

func TestEveryStateAndReasonHasItsWords(t *testing.T) {
	t.Parallel()
	codes := make(map[string]bool)
	for n := range fettlev1.JobState_name {
		s := fettlev1.JobState(n)
		if int(n) >= numStates {
			t.Fatalf("state %s is not in the table", s)
		}
		if codes[Code(s)] || Code(s) == "" {
			t.Errorf("code %q of %s is empty or taken", Code(s), s)
		}
		codes[Code(s)] = true
		if s == Unspecified {
			continue
		}
		for _, text := range []string{Code(s), strings.ToLower(Code(s)), StateName(s), strings.ToLower(StateName(s)), " " + strings.ReplaceAll(StateName(s), "_", "-")} {
			if got, err := ParseState(text); err != nil || got != s {
				t.Errorf("ParseState(%q) = %s, %v", text, got, err)
			}
		}
	}
	if len(States()) != numStates-1 {
		t.Errorf("States() = %v", States())
	}
	for _, bad := range []string{"", "X", "unspecified", "?"} {
		if _, err := ParseState(bad); err == nil {
			t.Errorf("ParseState(%q) is accepted", bad)
		}
	}
	if Code(99) != "?" || StateName(99) != "UNKNOWN" || StateName(0) != "UNKNOWN" {
		t.Error("unknown states have names")
	}
	texts := make(map[string]bool)
	for n := range fettlev1.Reason_name {
		text := ReasonText(fettlev1.Reason(n))
		if texts[text] || text == "Unknown" {
			t.Errorf("reason %s has the text %q", fettlev1.Reason(n), text)
		}
		texts[text] = true
	}
	if ReasonText(12345) != "Unknown" {
		t.Error("an unknown reason has a text")
	}
}

func TestBands(t *testing.T) {
	t.Parallel()
	for p, want := range map[uint32]string{0: "routine", 1: "production", 3: "production", 4: "routine", 6: "routine", 7: "exploratory", 10: "exploratory"} {
		if got := Band(p); got != want {
			t.Errorf("Band(%d) = %s, want %s", p, got, want)
		}
	}
}

func TestExits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		exit  *fettlev1.Exit
		code  int32
		clean bool
	}{
		"none":             {nil, 1, false},
		"0":                {&fettlev1.Exit{}, 0, true},
		"3":                {&fettlev1.Exit{Code: 3}, 3, false},
		"done with 3":      {&fettlev1.Exit{Code: 3, Class: fettlev1.ExitClass_EXIT_CLASS_DONE}, 3, true},
		"transient with 0": {&fettlev1.Exit{Class: fettlev1.ExitClass_EXIT_CLASS_TRANSIENT}, 0, false},
		"signal":           {&fettlev1.Exit{Code: -1, Signal: 15}, 143, false},
		"odd signal":       {&fettlev1.Exit{Code: -1, Signal: 999}, 1, false},
		"large":            {&fettlev1.Exit{Code: 256}, 1, false},
		"negative":         {&fettlev1.Exit{Code: -1}, 1, false},
		"done but lost":    {&fettlev1.Exit{Class: fettlev1.ExitClass_EXIT_CLASS_DONE, LeaseExpired: true}, 0, false},
		"timed out":        {&fettlev1.Exit{TimedOut: true}, 0, false},
	} {
		if got := WaitCode(c.exit); got != c.code {
			t.Errorf("%s: code %d, want %d", name, got, c.code)
		}
		if got := Clean(c.exit); got != c.clean {
			t.Errorf("%s: clean %v", name, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, id := range []uint64{1, 2, 77, math.MaxUint64} {
		for n, base := range map[uint32]int64{1: 10_000, 2: 20_000, 4: 80_000, 7: 600_000, math.MaxUint32: 600_000} {
			got := BackoffMS(id, n)
			if got < base || got > base+base/10 {
				t.Errorf("BackoffMS(%d, %d) = %d", id, n, got)
			}
			if got != BackoffMS(id, n) {
				t.Error("the back-off is not fixed")
			}
		}
	}
	if BackoffMS(1, 1) == BackoffMS(2, 1) {
		t.Error("neighbours come back together")
	}
	if LaunchBackoffMS(1) != 1000 || LaunchBackoffMS(3) != 4000 || LaunchBackoffMS(1000) != 60_000 {
		t.Error("launch back-off")
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", " a\nb\t\x1b[1m\x00c\x7f ": "a b  [1m c", "\xff": "?", "abcdefghijk": "abcdefg…", "ääääää": "äää…", "a\u2028b": "a b"} {
		if got := OneLine(in, 10); got != want {
			t.Errorf("OneLine(%q) = %q, want %q", in, got, want)
		}
	}
}
