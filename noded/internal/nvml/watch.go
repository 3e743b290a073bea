package nvml

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

const (
	// listEvery is how many rounds of readings go by between two inventories when nothing calls for an earlier one.
	listEvery = 12
	// waitSlice bounds one wait for events, which cannot be interrupted.
	waitSlice = 500 * time.Millisecond
)

// WatchConfig says how to watch.
type WatchConfig struct {
	// Interval is the time between two rounds of readings; above 0.
	Interval time.Duration
	// Count is the number of rounds; 0 means until the context ends.
	Count int
	// Emit takes each message. Its error ends the watch.
	Emit func(report.Message) error
}

// Validate checks the configuration.
func (c WatchConfig) Validate() error {
	switch {
	case c.Interval <= 0:
		return fmt.Errorf("interval %v is not above 0", c.Interval)
	case c.Count < 0:
		return fmt.Errorf("count %d is below 0", c.Count)
	case c.Emit == nil:
		return errors.New("nobody takes the messages")
	}
	return nil
}

// Watch emits the inventory, then readings every interval. Events are emitted when they happen, each sort once a round and
// GPU, and the inventory again when it changed. Where there is no GPU to watch it returns after the inventory.
func (m *Machine) Watch(ctx context.Context, cfg WatchConfig) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	w := watcher{m: m, cfg: cfg}
	defer w.unlisten()
	if err := w.list(); err != nil {
		return err
	}
	if len(w.last.GPUs) == 0 && len(w.last.Problems) == 0 {
		return nil
	}
	for round := 1; ; round++ {
		r := m.Readings()
		if err := cfg.Emit(report.Message{Readings: r}); err != nil {
			return err
		}
		if round == cfg.Count {
			return nil
		}
		if err := w.rest(ctx, cfg.Interval); err != nil {
			return err
		}
		if w.stale || round%listEvery == 0 || w.faulty() || m.lost() {
			if err := w.list(); err != nil {
				return err
			}
		}
	}
}

// lost reports whether a card of the last inventory has stopped answering.
func (m *Machine) lost() bool {
	return slices.ContainsFunc(m.devices, func(d listed) bool {
		_, _, err := d.dev.Memory()
		return errors.Is(err, ErrLost)
	})
}

type watcher struct {
	m    *Machine
	cfg  WatchConfig
	last *report.Inventory
	// stale asks for an inventory at the next round.
	stale bool

	events Events
	// heard are the devices that events is about; nil when there is none.
	heard []listed
}

// list takes an inventory, emits it when it is new, and listens to the devices in it.
func (w *watcher) list() error {
	w.stale = false
	inv, err := w.m.Inventory()
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(inv, w.last) {
		if err := w.cfg.Emit(report.Message{Inventory: inv}); err != nil {
			return err
		}
		w.last = inv
	}
	w.listen()
	return nil
}

// faulty reports whether the last inventory named a fault, whose end must be seen soon.
func (w *watcher) faulty() bool {
	return slices.ContainsFunc(w.last.GPUs, func(g report.GPU) bool { return g.Fault != "" })
}

// listen asks for events of all cards. Without any it does nothing: then readings are all there is.
func (w *watcher) listen() {
	same := func(a, b listed) bool { return a.uuid == b.uuid && a.dev == b.dev }
	var cards []listed
	var devs []Device
	for _, d := range w.m.devices {
		if d.whole {
			cards, devs = append(cards, d), append(devs, d.dev)
		}
	}
	if w.events != nil && slices.EqualFunc(cards, w.heard, same) {
		return
	}
	w.unlisten()
	if len(devs) == 0 {
		return
	}
	if events, err := w.m.drv.Events(devs); err == nil {
		w.events, w.heard = events, cards
	}
}

func (w *watcher) unlisten() {
	if w.events != nil {
		// A set that cannot be freed is of no further use and costs nothing.
		_ = w.events.Close()
	}
	w.events, w.heard = nil, nil
}

// rest passes the time to the next round, emitting events.
func (w *watcher) rest(ctx context.Context, d time.Duration) error {
	end := time.Now().Add(d)
	told := make(map[report.Event]bool)
	for {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		if w.events == nil {
			timer := time.NewTimer(left)
			select {
			case <-ctx.Done():
				timer.Stop()
				return context.Cause(ctx)
			case <-timer.C:
				return nil
			}
		}
		ev, err := w.events.Wait(min(left, waitSlice))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case errors.Is(err, ErrTimeout):
		case err != nil:
			// Asked for again with the next inventory.
			w.unlisten()
			w.stale = true
		case ev.Kind != "":
			w.stale = true
			out := report.Event{UUID: w.name(ev.Device), Kind: ev.Kind, XID: ev.XID}
			if told[out] {
				break
			}
			told[out] = true
			if err := w.cfg.Emit(report.Message{Event: &out}); err != nil {
				return err
			}
		}
	}
}

// name is the UUID of the device that an event is about; empty when it cannot be told.
func (w *watcher) name(dev Device) string {
	if dev == nil {
		return ""
	}
	for _, d := range w.heard {
		if d.dev == dev {
			return d.uuid
		}
	}
	if uuid, err := dev.UUID(); err == nil && report.CheckUUID(uuid) == nil {
		return uuid
	}
	return ""
}
