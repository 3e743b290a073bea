package fsm

import (
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func reserveOp(r *fettlev1.Reservation) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: admin, Op: &raftlogv1.Entry_SetReservation{SetReservation: &fettlev1.SetReservationRequest{Reservation: r}}}
}

func unreserveOp(name string) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: admin, Op: &raftlogv1.Entry_RemoveReservation{RemoveReservation: &fettlev1.RemoveReservationRequest{Name: name}}}
}

func TestReservationsAreChecked(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	hour := int64(3_600_000)
	r.ok(reserveOp(&fettlev1.Reservation{Name: "fans", Nodes: "n1", StartMs: r.now + hour, EndMs: r.now + 2*hour}))
	for _, c := range []struct {
		in   *fettlev1.Reservation
		kind model.Kind
		want string
	}{
		{&fettlev1.Reservation{}, model.Invalid, "name: is empty; name the reservation"},
		{&fettlev1.Reservation{Name: "x"}, model.Invalid, "nodes: is missing; name nodes, or give a number of gpus"},
		{&fettlev1.Reservation{Name: "x", Nodes: "n1", Gpus: 2}, model.Invalid, "gpus: is set beside nodes; reserve either nodes or a number of GPUs"},
		{&fettlev1.Reservation{Name: "x", Nodes: "n1", StartMs: 5, EndMs: 5}, model.Invalid, "end: is not after the start; give a later end"},
		{&fettlev1.Reservation{Name: "x", Nodes: "n1", StartMs: 1, EndMs: 2}, model.Invalid, "end: has passed; give a time to come, or none"},
		{&fettlev1.Reservation{Name: "x", Gpus: 1, Partition: "nope"}, model.Invalid, `partition: "nope" does not exist; use main`},
		{&fettlev1.Reservation{Name: "x", Gpus: 9}, model.Exhausted, "gpus: 9 asked for, 4 of that kind are there and not reserved in that time; ask for fewer, or choose another time"},
		{&fettlev1.Reservation{Name: "x", Gpus: 1, GpuType: "b200"}, model.Exhausted, "gpus: 1 asked for, 0 of that kind are there and not reserved in that time; ask for fewer, or choose another time"},
		{&fettlev1.Reservation{Name: "x", Nodes: "n[1-2]", StartMs: r.now + hour + hour/2}, model.Conflict,
			"reservation: node n1 is reserved as fans in that time; choose another time or other nodes, or remove that one"},
	} {
		wantRefusal(t, r.apply(reserveOp(c.in)).Err, c.kind, c.want)
	}
	wantRefusal(t, r.apply(unreserveOp("x")).Err, model.NotFound, `reservation: "x" does not exist; see fctl reservation list for those there are`)
	e := reserveOp(&fettlev1.Reservation{Name: "mine", Nodes: "n2"})
	e.Actor = alice
	wantRefusal(t, r.apply(e).Err, model.Denied, "only admins may do that; ask an admin")
	// The same name replaces; before and after another is no overlap; what is over is forgotten.
	r.ok(reserveOp(&fettlev1.Reservation{Name: "fans", Nodes: "n1", StartMs: r.now + hour, EndMs: r.now + 3*hour}))
	r.ok(reserveOp(&fettlev1.Reservation{Name: "before", Nodes: "n1", EndMs: r.now + hour}))
	r.ok(reserveOp(&fettlev1.Reservation{Name: "after", Nodes: "n1", StartMs: r.now + 3*hour}))
	r.now += 2 * hour
	r.ok(reserveOp(&fettlev1.Reservation{Name: "more", Gpus: 2}))
	if r.snap().Reservation("before") != nil || r.snap().Reservation("fans") == nil {
		t.Error("not those that are over are forgotten")
	}
	if p := r.snap().Reservation("more").GetPicked(); len(p) != 1 || p[0].GetNode() != "n2" || len(p[0].GetGpuUuids()) != 2 {
		t.Errorf("picked %v", p)
	}
	r.ok(unreserveOp("more"))
	if r.snap().Reservation("more") != nil {
		t.Error("it is still there")
	}
}

// What is reserved is not given to jobs that would run into it, and to those that ask for it from its start on.
func TestStartsAroundReservations(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	hour := int64(3_600_000)
	r.ok(reserveOp(&fettlev1.Reservation{Name: "demo", Nodes: "n1", StartMs: r.now + hour, EndMs: r.now + 2*hour, Users: []string{"alice"}, Projects: []string{"vision"}}))
	one := script(1, 1, 1)
	short, endless := r.submit(timed(clone(one), 3600)), r.submit(clone(one))
	guess := clone(one)
	guess.EstimatedRunS = 3599
	guessed := r.submit(guess)
	long := r.submit(timed(clone(one), 3601))
	mine := clone(one)
	mine.Reservation = "demo"
	asked := r.submit(mine)
	out := r.tryStart(long, part(one, "n1", 0))
	wantRefusal(t, out.Err, model.Conflict, "reservation: n1 is reserved as demo, and job 4 need not be over by then")
	if out.Reason != fettlev1.Reason_REASON_RESERVATION {
		t.Errorf("reason %s", out.Reason)
	}
	wantRefusal(t, r.tryStart(endless, part(one, "n1", 0)).Err, model.Conflict, "reservation: n1 is reserved as demo, and job 2 need not be over by then")
	wantRefusal(t, r.tryStart(asked, part(one, "n1", 0)).Err, model.Conflict, "reservation: demo has not begun")
	r.dispatch(short, part(one, "n1", 0))
	r.dispatch(guessed, part(one, "n1", 1))
	r.dispatch(endless, part(one, "n2", 0))
	r.now += hour
	wantRefusal(t, r.tryStart(asked, part(one, "n2", 1)).Err, model.Conflict, "reservation: n2 is not all in demo")
	r.dispatch(asked, part(one, "n1", 2))
	// Who may not use it, and who asks for one that is not there.
	theirs := clone(one)
	theirs.Reservation = "demo"
	wantRefusal(t, r.trySubmit(bob, theirs).Err, model.Denied, "reservation: demo is not for bob; leave it out, or ask an admin")
	theirs.Project = "vision"
	if out := r.trySubmit(bob, clone(theirs)); out.Err != nil {
		t.Errorf("of a project that may: %v", out.Err)
	}
	theirs.Reservation = "nope"
	wantRefusal(t, r.trySubmit(bob, theirs).Err, model.Invalid, `reservation: "nope" does not exist, or is over; see fctl reservation list for those there are`)
	waits := r.submit(clone(mine))
	r.now += hour
	wantRefusal(t, r.tryStart(waits, part(one, "n1", 3)).Err, model.Conflict, `reservation: "demo" does not exist any more`)
	r.dispatch(long, part(one, "n1", 3))
}

// Reserved GPUs are those that will be free, on few nodes; what else the node has is for everybody.
func TestReservedGPUs(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	two := script(1, 1, 2)
	r.dispatch(r.submit(clone(two)), part(two, "n1", 0, 1))
	r.ok(reserveOp(&fettlev1.Reservation{Name: "course", Gpus: 5, GpuType: "h100", StartMs: r.now + 3_600_000, Users: []string{"*"}}))
	p := r.snap().Reservation("course").GetPicked()
	if len(p) != 2 || p[0].GetNode() != "n1" || len(p[0].GetGpuUuids()) != 1 || p[0].GetGpuUuids()[0] != "GPU-n1-2" || len(p[1].GetGpuUuids()) != 4 {
		t.Fatalf("picked %v", p)
	}
	one := script(1, 1, 1)
	id := r.submit(clone(one))
	wantRefusal(t, r.tryStart(id, part(one, "n1", 2)).Err, model.Conflict, "reservation: n1 is reserved as course, and job 2 need not be over by then")
	r.dispatch(id, part(one, "n1", 3))
	cpu := script(1, 1, 0)
	r.dispatch(r.submit(clone(cpu)), part(cpu, "n2"))
	// Another time leaves it its GPUs, whoever came to hold others; another number does not.
	r.ok(reserveOp(&fettlev1.Reservation{Name: "course", Gpus: 5, GpuType: "h100", StartMs: r.now + 7_200_000, Users: []string{"*"}}))
	if again := r.snap().Reservation("course").GetPicked(); len(again) != 2 || again[0].GetGpuUuids()[0] != "GPU-n1-2" {
		t.Errorf("picked %v after a change of time", again)
	}
	r.ok(reserveOp(&fettlev1.Reservation{Name: "course", Gpus: 2, GpuType: "h100", StartMs: r.now + 7_200_000}))
	if again := r.snap().Reservation("course").GetPicked(); len(again) != 1 || again[0].GetNode() != "n2" {
		t.Errorf("picked %v after a change of number", again)
	}
}
