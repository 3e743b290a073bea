package session

import (
	"slices"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func foreign(uuid string, unaccounted int64, procs ...*fettlev1.GPUProcess) *fettlev1.GPUReading {
	return &fettlev1.GPUReading{Uuid: uuid, Foreign: procs, ForeignMemoryMib: unaccounted}
}

func TestBusyOutside(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	changes := make(chan string, 100)
	sv.srv.OnBusyOutside(func(node string) {
		busy := len(sv.srv.NodeBusyOutside(node))
		changes <- node + strings.Repeat("!", busy)
	})
	stop := sv.leads(1)
	n := sv.join("n1")
	say := func(gpus ...*fettlev1.GPUReading) {
		n.say(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Readings{Readings: &fettlev1.NodeReadings{Gpus: gpus}}})
		n.beat() // answered after what was said before it was taken
		n.want("lease")
	}
	want := func(changed string) {
		t.Helper()
		got := ""
		select {
		case got = <-changes:
		default:
		}
		if got != changed {
			t.Errorf("told %q, want %q", got, changed)
		}
	}
	python := &fettlev1.GPUProcess{Pid: 42, MemoryMib: 12_000, Name: "py\nthon"}
	say(&fettlev1.GPUReading{Uuid: "u0", Processes: []*fettlev1.GPUProcess{python}})
	want("")
	say(foreign("u1", 0, python, &fettlev1.GPUProcess{Pid: 43}), foreign("u0", 3000))
	want("n1!!")
	got := sv.srv.BusyOutside()["n1"]
	if len(got) != 2 || got[0].UUID != "u0" || got[0].Text != "3000 MiB that no process accounts for" || got[0].MemoryMiB != 3000 ||
		got[1].Text != "pid 42 (py thon) with 12000 MiB, pid 43" || !slices.Equal(got[1].Pids, []uint32{42, 43}) || got[1].MemoryMiB != 12_000 {
		t.Errorf("%+v", got)
	}
	// Another process on the same card changes nothing for placement, but the text.
	many := make([]*fettlev1.GPUProcess, 100)
	for i := range many {
		many[i] = &fettlev1.GPUProcess{Pid: uint32(i + 1)}
	}
	say(foreign("u1", 0, many...), foreign("u0", 3001))
	want("")
	if got := sv.srv.NodeBusyOutside("n1")[1]; got.Text != "pid 1, pid 2, pid 3, 13 more" || len(got.Pids) != maxForeign {
		t.Errorf("%+v", got)
	}
	say(foreign("u1", 0, python))
	want("n1!")
	say()
	want("n1")
	if got := sv.srv.BusyOutside(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	say(foreign("u1", 0, python))
	stop()
	if got := sv.srv.BusyOutside(); len(got) != 0 {
		t.Errorf("a former leader knows of %v", got)
	}
}

func TestRemovedNodeIsNotBusy(t *testing.T) {
	t.Parallel()
	tel := newTelemetry()
	tel.setReadings("n1", &fettlev1.NodeReadings{Gpus: []*fettlev1.GPUReading{foreign("u0", 1), foreign("u0", 2)}})
	if len(tel.busy["n1"]) != 1 {
		t.Errorf("%v", tel.busy)
	}
	tel.keepNodes(newTable(t).snap())
	if len(tel.busy) != 0 {
		t.Errorf("%v", tel.busy)
	}
}
