//go:build cgo

package nvml

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

// told is a line of what a watch said, in short.
func told(m report.Message) string {
	switch {
	case m.Inventory != nil:
		var faults []string
		for _, g := range m.Inventory.GPUs {
			if g.Fault != "" {
				faults = append(faults, fmt.Sprintf("%d: %s", g.Index, g.Fault))
			}
		}
		return strings.TrimSpace(fmt.Sprintf("inventory %d %s", len(m.Inventory.GPUs), strings.Join(faults, ", ")))
	case m.Readings != nil:
		return fmt.Sprintf("readings %d", len(m.Readings.GPUs))
	}
	return strings.TrimSpace(fmt.Sprintf("%s %d %s", m.Event.Kind, m.Event.XID, m.Event.UUID))
}

// watch runs a watch of some rounds in a bubble and tells what it said and when.
func watch(t *testing.T, b *box, rounds int) (lines []string) {
	t.Helper()
	m := b.open(t, nil)
	begun := time.Now()
	err := m.Watch(t.Context(), WatchConfig{Interval: 5 * time.Second, Count: rounds, Emit: func(msg report.Message) error {
		throughTheWire(t, msg)
		lines = append(lines, fmt.Sprintf("%v %s", time.Since(begun), told(msg)))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("said\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const third = "GPU-00000003-0000-4000-8000-000000000003"

func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t, "dgxh100")
		expect(t, watch(t, b, 3), "0s inventory 8", "0s readings 8", "5s readings 8", "10s readings 8")
		if len(b.registered) != 8 || b.freed != 1 {
			t.Errorf("%d cards registered for events, %d sets freed", len(b.registered), b.freed)
		}
	})
}

func TestWatchTellsEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t, "dgxh100")
		at := func(d time.Duration, ev nvml.EventData) { time.AfterFunc(d, func() { b.events <- ev }) }
		for range 100 { // a flood of one sort is told once a round
			at(1100*time.Millisecond, nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeXidCriticalError, EventData: 31})
		}
		at(2*time.Second, nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeXidCriticalError, EventData: 79})
		at(3*time.Second, nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeDoubleBitEccError})
		at(3500*time.Millisecond, nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeClock})
		at(4*time.Second, nvml.EventData{EventType: nvml.EventTypeXidCriticalError, EventData: 62})
		at(4500*time.Millisecond, nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeGpuUnavailableError})
		at(6*time.Second, nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeXidCriticalError, EventData: 31})
		expect(t, watch(t, b, 3), "0s inventory 8", "0s readings 8", "1.1s xid 31 "+third, "2s xid 79 "+third, "3s ecc 0 "+third,
			"4s xid 62", "4.5s unavailable 0 "+third, "5s readings 8", "6s xid 31 "+third, "10s readings 8")
	})
}

func TestWatchListsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t, "dgxh100")
		// A card falls off without a word.
		time.AfterFunc(7*time.Second, func() { b.set(func() { b.lost[4] = true }) })
		time.AfterFunc(17*time.Second, func() { b.set(func() { b.lost[4] = false }) })
		// What the driver wants done changes, which an event calls attention to; the last change is only found by the look every minute.
		time.AfterFunc(21*time.Second, func() { b.set(func() { b.recovery[2] = nvml.GPU_RECOVERY_ACTION_GPU_RESET }) })
		time.AfterFunc(22*time.Second, func() {
			b.events <- nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeXidCriticalError, EventData: 119}
		})
		time.AfterFunc(28*time.Second, func() { b.set(func() { b.recovery[2] = nvml.GPU_RECOVERY_ACTION_NONE }) })
		time.AfterFunc(31*time.Second, func() { b.set(func() { b.remap[0] = true }) })
		expect(t, watch(t, b, 14), "0s inventory 8", "0s readings 8", "5s readings 8",
			"10s inventory 8 4: the GPU is lost or needs a reset", "10s readings 8", "15s readings 8",
			"20s inventory 8", "20s readings 8", "22s xid 119 "+third,
			"25s inventory 8 2: the driver wants the GPU reset", "25s readings 8",
			"30s inventory 8", "30s readings 8", "35s readings 8", "40s readings 8", "45s readings 8", "50s readings 8", "55s readings 8",
			"1m0s inventory 8 0: broken memory could not be replaced by spare memory: replace the card",
			"1m0s readings 8", "1m5s readings 8")
	})
}

func TestWatchWithoutEvents(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]func(*box){
		"no event set": func(b *box) {
			b.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return nil, nvml.ERROR_NOT_SUPPORTED }
		},
		"no card has any": func(b *box) {
			for i := range b.Devices {
				mockDevice(b, i).GetSupportedEventTypesFunc = func() (uint64, nvml.Return) { return 0, nvml.SUCCESS }
			}
		},
		"not for this user": func(b *box) {
			for i := range b.Devices {
				mockDevice(b, i).RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.ERROR_NO_PERMISSION }
			}
		},
		"old library": func(b *box) { b.lacks = []string{"nvmlEventSetWait"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t, "dgxh100")
				break_(b)
				expect(t, watch(t, b, 3), "0s inventory 8", "0s readings 8", "5s readings 8", "10s readings 8")
			})
		})
	}
}

// An event set that fails at once must not make the watch spin or stop.
func TestWatchWithBrokenEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t, "dgxh100")
		sets := 0
		create := b.EventSetCreateFunc
		b.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) {
			sets++
			return create()
		}
		b.lost[1] = true
		begun := time.Now()
		good := b.wait
		b.waitFunc = func(ms uint32) (nvml.EventData, nvml.Return) {
			if time.Since(begun) < 7*time.Second {
				return nvml.EventData{}, nvml.ERROR_GPU_IS_LOST
			}
			return good(ms)
		}
		time.AfterFunc(11*time.Second, func() {
			b.events <- nvml.EventData{Device: b.Devices[2], EventType: nvml.EventTypeXidCriticalError, EventData: 13}
		})
		lost := "1: the GPU is lost or needs a reset"
		expect(t, watch(t, b, 4), "0s inventory 8 "+lost, "0s readings 8", "5s readings 8", "10s readings 8", "11s xid 13 "+third, "15s readings 8")
		if sets != 3 || b.freed != 3 {
			t.Errorf("%d sets made, %d freed, want 3", sets, b.freed)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	t.Run("where there is nothing", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBox(t, "dgxh100")
			b.InitFunc = func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }
			expect(t, watch(t, b, 0), "0s inventory 0")
		})
	})
	t.Run("with its context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			for _, events := range []bool{true, false} {
				b := newBox(t, "dgxh100")
				if !events {
					b.lacks = []string{"nvmlEventSetCreate"}
				}
				reason := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(12*time.Second, func() { cancel(reason) })
				begun := time.Now()
				err := b.open(t, nil).Watch(ctx, WatchConfig{Interval: 10 * time.Second, Emit: func(report.Message) error { return nil }})
				if !errors.Is(err, reason) || time.Since(begun) > 12*time.Second+waitSlice {
					t.Errorf("ended after %v with %v", time.Since(begun), err)
				}
			}
		})
	})
	t.Run("when nobody listens", func(t *testing.T) {
		t.Parallel()
		broken := errors.New("broken pipe")
		err := newBox(t, "dgxh100").open(t, nil).Watch(t.Context(), WatchConfig{Interval: time.Hour, Emit: func(report.Message) error { return broken }})
		if !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("before it begins", func(t *testing.T) {
		t.Parallel()
		for _, c := range []WatchConfig{{}, {Interval: -1}, {Interval: 1, Count: -1}, {Interval: 1}} {
			if err := newBox(t, "dgxh100").open(t, nil).Watch(t.Context(), c); err == nil {
				t.Errorf("%+v is accepted", c)
			}
		}
	})
}
