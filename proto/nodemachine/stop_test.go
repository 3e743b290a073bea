package nodemachine

import (
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// A stop with a grace, as a preemption gives it, may come at any moment of an attempt's start. Whatever was on its way then,
// nothing starts after it, what runs gets the whole grace, and the end is told once it is true.
func TestStopWithGraceAtEveryMoment(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before func(r *rig)
		// stops says that there is something to stop.
		stops bool
	}{
		"before the order":                           {before: func(*rig) {}},
		"while the intent is on its way to the disk": {before: func(r *rig) { r.order(5, auto(k1)) }},
		"gang, the same": {before: func(r *rig) {
			p := auto(k1)
			p.AutoStart = false
			r.order(5, p)
		}},
		"prepared": {before: func(r *rig) {
			p := auto(k1)
			p.AutoStart = false
			r.order(5, p)
			r.sync()
		}},
		"START came before the intent was on the disk": {before: func(r *rig) {
			p := auto(k1)
			p.AutoStart = false
			r.order(5, p)
			r.order(5, &fettlev1.Start{Key: k1.Proto()})
		}},
		"starting": {before: func(r *rig) {
			r.order(5, auto(k1))
			r.sync()
		}, stops: true},
		"running": {before: func(r *rig) {
			r.order(5, auto(k1))
			r.sync()
			r.step(ShimStarted{Key: k1})
		}, stops: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Boot{}).open(5)
			c.before(r)
			stop := &fettlev1.Kill{Key: k1.Proto(), GraceMs: 600_000}
			out := r.order(5, stop)
			stops := pick[StopShim](out)
			if c.stops != (len(stops) == 1) || c.stops && stops[0] != (StopShim{Key: k1, GraceMS: 600_000}) {
				t.Fatalf("stops %v", stops)
			}
			// What was sent before the stop, or is repeated, comes after it.
			var late []Output
			late = append(late, r.sync()...)
			late = append(late, r.order(5, auto(k1))...)
			late = append(late, r.order(5, &fettlev1.Start{Key: k1.Proto()})...)
			late = append(late, r.sync()...)
			late = append(late, r.order(5, &fettlev1.LeaseGrant{Seq: 1, SentBoottimeMs: r.now, TtlMs: 60_000})...)
			if s := pick[StartShim](late); len(s) != 0 {
				t.Fatalf("started after the stop: %v", s)
			}
			ended := func() *fettlev1.Exit {
				for _, rep := range reports(r.got) {
					if rep.GetKind() == fettlev1.ReportKind_REPORT_KIND_ENDED {
						return rep.GetExit()
					}
				}
				return nil
			}
			if !c.stops {
				if e := ended(); e == nil || !e.GetNeverStarted() || e.GetUserError() {
					t.Errorf("its end is %v", e)
				}
				return
			}
			if e := ended(); e != nil {
				t.Fatalf("the end was told before it came: %v", e)
			}
			// The session is lost and the next leader repeats the stop: the grace is not begun anew here but by the shim, which
			// never lengthens one.
			r.step(SessionLost{})
			r.open(6)
			if s := pick[StopShim](r.order(6, stop)); len(s) != 1 {
				t.Errorf("the repeated stop: %v", s)
			}
			r.step(ShimEnded{Key: k1, Exit: &fettlev1.Exit{Code: 85}})
			if e := ended(); e.GetCode() != 85 || e.GetNeverStarted() {
				t.Errorf("its end is %v", e)
			}
		})
	}
}
