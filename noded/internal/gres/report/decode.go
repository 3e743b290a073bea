package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// ErrVersion means that the two sides are of different releases.
var ErrVersion = errors.New("fettle-nvml is of another release than the node daemon: install both from the same one")

// Encode returns m as one line with its newline. It sets the version.
func Encode(m Message) ([]byte, error) {
	m.Version = Version
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// Decode reads one message and refuses whatever is not exactly one sound message.
func Decode(b []byte) (Message, error) {
	if len(b) > MaxMessage {
		return Message{}, fmt.Errorf("message of %d bytes is above %d", len(b), MaxMessage)
	}
	// The version first: another version may have other fields.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Message{}, fmt.Errorf("not a message: %w", err)
	}
	if head.Version != Version {
		return Message{}, fmt.Errorf("message version %d, want %d: %w", head.Version, Version, ErrVersion)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var m Message
	if err := dec.Decode(&m); err != nil {
		return Message{}, fmt.Errorf("not a message: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Message{}, errors.New("more than one message where one is wanted")
	}
	if err := m.check(); err != nil {
		return Message{}, err
	}
	return m, nil
}

// Text makes s fit for a message: one line of printable characters, at most MaxText bytes.
func Text(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	for len(s) > MaxText {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return strings.TrimRight(s, " ")
}

func (m Message) check() error {
	n := 0
	for _, set := range []bool{m.Inventory != nil, m.Readings != nil, m.Event != nil} {
		if set {
			n++
		}
	}
	switch {
	case n != 1:
		return fmt.Errorf("%d parts where one is wanted", n)
	case m.Inventory != nil:
		return m.Inventory.check()
	case m.Readings != nil:
		return m.Readings.check()
	}
	return m.Event.check()
}

func (inv *Inventory) check() error {
	if len(inv.GPUs) > gres.MaxGPUsPerNode {
		return fmt.Errorf("%d GPUs, at most %d are possible", len(inv.GPUs), gres.MaxGPUsPerNode)
	}
	if len(inv.Problems) > MaxProblems {
		return fmt.Errorf("%d problems, at most %d are listed", len(inv.Problems), MaxProblems)
	}
	if err := checkText(append([]string{inv.Driver, inv.Note}, inv.Problems...)...); err != nil {
		return err
	}
	uuids := make(map[string]bool, len(inv.GPUs))
	indexes := make(map[uint32]bool, len(inv.GPUs))
	for i := range inv.GPUs {
		g := &inv.GPUs[i]
		if err := g.check(); err != nil {
			return err
		}
		if uuids[g.UUID] || indexes[g.Index] {
			return fmt.Errorf("gpu %d, %s: listed twice", g.Index, g.UUID)
		}
		uuids[g.UUID], indexes[g.Index] = true, true
	}
	for _, g := range inv.GPUs {
		if g.Parent != "" && (!uuids[g.Parent] || g.Parent == g.UUID) {
			return fmt.Errorf("gpu %d: its parent %s is not listed", g.Index, g.Parent)
		}
		for _, l := range g.Links {
			if !indexes[l.Peer] || l.Peer == g.Index {
				return fmt.Errorf("gpu %d: linked to gpu %d, which is not listed", g.Index, l.Peer)
			}
		}
	}
	return nil
}

func (g *GPU) check() error {
	if err := CheckUUID(g.UUID); err != nil {
		return fmt.Errorf("gpu %d: %w", g.Index, err)
	}
	if typ, err := gres.ParseType(g.Type); err != nil {
		return fmt.Errorf("gpu %d: %w", g.Index, err)
	} else if typ != g.Type {
		return fmt.Errorf("gpu %d: the type %q is not in its plain form", g.Index, g.Type)
	}
	if err := checkText(g.Model, g.PCIBusID, g.Parent, g.Fault); err != nil {
		return fmt.Errorf("gpu %d: %w", g.Index, err)
	}
	switch {
	case g.Index > gres.MaxDeviceIndex:
		return fmt.Errorf("gpu %d: the index is above %d", g.Index, gres.MaxDeviceIndex)
	case g.MemoryMiB < 0 || g.MemoryMiB > MaxMemoryMiB:
		return fmt.Errorf("gpu %d: %d MiB of memory is out of range", g.Index, g.MemoryMiB)
	case g.NUMANode < -1 || g.NUMANode > 1<<16:
		return fmt.Errorf("gpu %d: NUMA node %d is out of range", g.Index, g.NUMANode)
	case len(g.Links) > gres.MaxGPUsPerNode:
		return fmt.Errorf("gpu %d: linked to %d others", g.Index, len(g.Links))
	}
	switch g.MIG {
	case MIGUnknown, MIGDisabled, MIGEnabled, MIGInstance:
	default:
		return fmt.Errorf("gpu %d: unknown MIG state %q", g.Index, g.MIG)
	}
	if (g.MIG == MIGInstance) != (g.Parent != "") {
		return fmt.Errorf("gpu %d: a MIG instance, and nothing else, has a parent", g.Index)
	}
	return nil
}

// CheckUUID checks that jobs can pin a device by this UUID.
func CheckUUID(uuid string) error {
	d, err := gres.ParseDevices(uuid)
	if err != nil {
		return err
	}
	if len(d.UUIDs) != 1 || d.UUIDs[0] != uuid {
		return fmt.Errorf("%.100q is not a UUID", uuid)
	}
	return nil
}

func (r *Readings) check() error {
	if len(r.GPUs) > gres.MaxGPUsPerNode {
		return fmt.Errorf("readings of %d GPUs, at most %d are possible", len(r.GPUs), gres.MaxGPUsPerNode)
	}
	seen := make(map[string]bool, len(r.GPUs))
	for _, g := range r.GPUs {
		if err := CheckUUID(g.UUID); err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		switch {
		case seen[g.UUID]:
			return fmt.Errorf("reading of %s: listed twice", g.UUID)
		case g.MemoryUsedMiB != nil && (*g.MemoryUsedMiB < 0 || *g.MemoryUsedMiB > MaxMemoryMiB):
			return fmt.Errorf("reading of %s: %d MiB in use is out of range", g.UUID, *g.MemoryUsedMiB)
		case g.UtilisationPct != nil && *g.UtilisationPct > 100:
			return fmt.Errorf("reading of %s: %d%% utilisation", g.UUID, *g.UtilisationPct)
		case g.TemperatureC != nil && (*g.TemperatureC < -100 || *g.TemperatureC > 1000):
			return fmt.Errorf("reading of %s: %d degrees", g.UUID, *g.TemperatureC)
		case g.PowerW != nil && *g.PowerW > 100_000:
			return fmt.Errorf("reading of %s: %d watts", g.UUID, *g.PowerW)
		case len(g.Processes) > MaxProcesses:
			return fmt.Errorf("reading of %s: %d processes, at most %d are listed", g.UUID, len(g.Processes), MaxProcesses)
		}
		seen[g.UUID] = true
		for _, p := range g.Processes {
			if p.MemoryMiB < 0 || p.MemoryMiB > MaxMemoryMiB {
				return fmt.Errorf("reading of %s: process %d with %d MiB", g.UUID, p.PID, p.MemoryMiB)
			}
		}
	}
	return nil
}

func (e *Event) check() error {
	if e.UUID != "" {
		if err := CheckUUID(e.UUID); err != nil {
			return fmt.Errorf("event: %w", err)
		}
	}
	switch e.Kind {
	case EventXID:
		if e.XID > 1<<16 {
			return fmt.Errorf("event: Xid %d is out of range", e.XID)
		}
	case EventECC, EventUnavailable, EventRecovery:
		if e.XID != 0 {
			return fmt.Errorf("event: an Xid with kind %q", e.Kind)
		}
	default:
		return fmt.Errorf("event: unknown kind %.40q", e.Kind)
	}
	return nil
}

func checkText(texts ...string) error {
	for _, s := range texts {
		if s != Text(s) {
			return fmt.Errorf("the text %.80q is too long or not one printable line", s)
		}
	}
	return nil
}
