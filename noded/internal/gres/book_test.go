package gres

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// at gives a GPU another index, as the driver does when one before it is lost.
func at(index uint32, g report.GPU) report.GPU {
	g.Index = index
	return g
}

func linked(g report.GPU, peers ...uint32) report.GPU {
	for _, p := range peers {
		g.Links = append(g.Links, report.Link{Peer: p, Links: 18})
	}
	return g
}

func slice(i int, card report.GPU, slot int) report.GPU {
	return report.GPU{Index: uint32(i), UUID: fmt.Sprintf("MIG-%s-%d", card.UUID, slot), Type: card.Type + "-1g.10gb", MIG: report.MIGInstance, Parent: card.UUID, MemoryMiB: 9856}
}

func divided(g report.GPU) report.GPU {
	g.MIG = report.MIGEnabled
	return g
}

func TestPlacesStay(t *testing.T) {
	t.Parallel()
	var b book
	b.inventory(listOf(linked(gpu(0), 1, 2), linked(gpu(1), 0, 2), linked(gpu(2), 0, 1)))
	// The middle one is lost: the driver now calls the third one 1.
	b.inventory(listOf(linked(gpu(0), 1), linked(at(1, gpu(2)), 0)))
	want := []*fettlev1.GPU{
		{Index: 0, Links: []*fettlev1.NVLink{{Peer: 2, Links: 18}}},
		{Index: 1, Unhealthy: true, HealthDetail: "the driver no longer lists it"},
		{Index: 2, Links: []*fettlev1.NVLink{{Peer: 0, Links: 18}}},
	}
	for i, g := range want {
		src := gpu(i)
		g.Uuid, g.Type, g.Model, g.MemoryMib, g.PciBusId = src.UUID, src.Type, src.Model, src.MemoryMiB, src.PCIBusID
	}
	got := b.gpus()
	want[1].Links = got[1].GetLinks() // of a lost card they do not matter
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	// Another card in the slot is another card, at a place of its own; the lost one may come back to its own.
	b.inventory(listOf(gpu(0), at(1, gpu(7)), at(2, gpu(2))))
	if got := state(b.gpus(), nil); got != "0 ok; 1 the driver no longer lists it; 2 ok; 3 ok" || b.gpus()[3].GetUuid() != uuid(7) {
		t.Errorf("%s, %v", got, b.gpus()[3])
	}
	b.inventory(listOf(gpu(0), gpu(1), gpu(2), at(3, gpu(7))))
	if got := state(b.gpus(), nil); got != "0 ok; 1 ok; 2 ok; 3 ok" || b.gpus()[1].GetUuid() != uuid(1) {
		t.Errorf("%s, %v", got, b.gpus()[1])
	}
}

func TestRoomForNewCards(t *testing.T) {
	t.Parallel()
	var b book
	full := func(from int) *report.Inventory {
		inv := listOf()
		for i := range 64 {
			inv.GPUs = append(inv.GPUs, at(uint32(i), gpu(from+i)))
		}
		return inv
	}
	b.inventory(full(0))
	b.inventory(full(64)) // all replaced: nothing of the old ones may be in the way
	gpus := b.gpus()
	if len(gpus) != 64 || gpus[0].GetUnhealthy() || gpus[0].GetUuid() != uuid(64) {
		t.Errorf("%d GPUs, the first %v", len(gpus), gpus[0])
	}
}

func TestLostCardKeepsItsName(t *testing.T) {
	t.Parallel()
	var b book
	card := divided(gpu(0))
	b.inventory(listOf(card, gpu(1), slice(2, card, 0)))
	b.inventory(listOf(report.GPU{Index: 0, UUID: card.UUID, Type: "gpu", NUMANode: -1, Fault: "the GPU is lost or needs a reset"}, gpu(1)))
	gpus := b.gpus()
	if len(gpus) != 3 || gpus[0].GetType() != "h100" || gpus[0].GetMemoryMib() != 81559 {
		t.Fatalf("%v", gpus)
	}
	const lost = "the GPU is lost or needs a reset"
	if got := state(gpus, nil); got != "0 "+lost+"; MIG is on: its instances are given to jobs instead; 1 ok; 2 the driver no longer lists it" {
		t.Error(got)
	}
	b.inventory(listOf(card, gpu(1), slice(2, card, 0)))
	if got := state(b.gpus(), nil); got != "0 MIG is on: its instances are given to jobs instead; 1 ok; 2 ok" {
		t.Error(got)
	}
}

func TestInstances(t *testing.T) {
	t.Parallel()
	var b book
	card := divided(gpu(1))
	b.inventory(listOf(gpu(0), card))
	if got := state(b.gpus(), nil); got != "0 ok; 1 MIG is on and there is no instance: make some, or switch MIG off" {
		t.Error(got)
	}
	b.inventory(listOf(gpu(0), card, slice(2, card, 0), slice(3, card, 1)))
	if got := state(b.gpus(), nil); got != "0 ok; 1 MIG is on: its instances are given to jobs instead; 2 ok; 3 ok" {
		t.Error(got)
	}
	if g := b.gpus()[2]; g.GetMig() != "instance" || g.GetType() != "h100-1g.10gb" || g.GetMigParent() != card.UUID {
		t.Errorf("%v", g)
	}
	if want, err := gres.ParseGRES("gpu:" + b.gpus()[2].GetType() + ":1"); err != nil || want.Type != b.gpus()[2].GetType() || want.Count != 1 {
		t.Errorf("a job cannot ask for an instance: %v, %v", want, err)
	}
	// The first instance is taken apart, a third one is made: the second one stays where it is.
	b.inventory(listOf(gpu(0), card, slice(2, card, 1), slice(3, card, 2)))
	gpus := b.gpus()
	if got := state(gpus, nil); got != "0 ok; 1 MIG is on: its instances are given to jobs instead; 2 ok; 3 ok" ||
		gpus[3].GetUuid() != "MIG-GPU-0001-1" || gpus[2].GetUuid() != "MIG-GPU-0001-2" {
		t.Errorf("%s: %v", got, gpus)
	}
	// What is wrong with a card is wrong with its instances.
	b.event(&report.Event{UUID: card.UUID, Kind: report.EventXID, XID: 79}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	const xid = "Xid 79 at 2026-01-02T03:04:05Z: the GPU fell off the bus: restart the machine"
	if got := state(b.gpus(), nil); got != "0 ok; 1 "+xid+"; MIG is on: its instances are given to jobs instead; 2 "+xid+"; 3 "+xid {
		t.Error(got)
	}
	b.inventory(listOf(gpu(0)))
	const gone = "the driver no longer lists it; "
	if got := state(b.gpus(), nil); got != "0 ok; 1 "+gone+xid+"; MIG is on: its instances are given to jobs instead; 2 "+gone+xid+"; 3 "+gone+xid {
		t.Error(got)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	var b book
	b.inventory(listOf(gpu(0), gpu(1)))
	for i := range uint32(40) {
		b.event(&report.Event{UUID: uuid(0), Kind: report.EventXID, XID: 1000 + i}, now)
	}
	b.event(&report.Event{UUID: uuid(0), Kind: report.EventECC}, now)
	b.event(&report.Event{UUID: uuid(0), Kind: report.EventRecovery}, now)
	b.event(&report.Event{UUID: "GPU-unknown", Kind: report.EventXID, XID: 79}, now)
	b.event(&report.Event{Kind: report.EventXID, XID: 79}, now)
	if got := state(b.gpus(), nil); got != "0 ok; 1 ok" {
		t.Error(got)
	}
	used := b.used()
	if len(used) != 1 || len(used[0].GetXids()) != maxXIDs || used[0].GetXids()[0] != 1024 || used[0].GetXids()[maxXIDs-1] != 1039 {
		t.Errorf("the newest %d Xids: %v", maxXIDs, used)
	}
	b.event(&report.Event{UUID: uuid(1), Kind: report.EventUnavailable}, now)
	if got := state(b.gpus(), nil); got != "0 ok; 1 the driver said that it became unavailable: reset the card, then restart fettle-noded" {
		t.Error(got)
	}
}

// Whatever the driver lists, in whatever order: every card keeps its place, is never two, and the controller accepts it.
func TestBookProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var b book
		place := make(map[string]uint32)
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			inv := listOf()
			cards := rapid.SliceOfNDistinct(rapid.IntRange(0, 12), 0, 8, rapid.ID).Draw(t, "cards")
			for i, c := range cards {
				g := at(uint32(i), gpu(c))
				if rapid.Bool().Draw(t, "mig") {
					g = divided(g)
				}
				if rapid.IntRange(0, 9).Draw(t, "fault") == 0 {
					g = report.GPU{Index: g.Index, UUID: g.UUID, Type: "gpu", NUMANode: -1, Fault: "lost"}
				}
				for j := range cards {
					if j != i {
						g.Links = append(g.Links, report.Link{Peer: uint32(j), Links: 4})
					}
				}
				inv.GPUs = append(inv.GPUs, g)
			}
			for _, g := range inv.GPUs {
				if g.MIG != report.MIGEnabled {
					continue
				}
				for slot := range rapid.IntRange(0, 7).Draw(t, "slots") {
					inv.GPUs = append(inv.GPUs, slice(len(inv.GPUs), g, slot))
				}
			}
			// The book gets only what passes the wire.
			b2, err := report.Encode(report.Message{Inventory: inv})
			if err != nil {
				t.Fatal(err)
			}
			m, err := report.Decode(b2)
			if err != nil {
				t.Fatal(err)
			}
			b.inventory(m.Inventory)
			if rapid.Bool().Draw(t, "event") {
				b.event(&report.Event{UUID: uuid(rapid.IntRange(0, 12).Draw(t, "whose")), Kind: report.EventXID, XID: 79}, time.Unix(0, 0))
			}
			gpus := b.gpus()
			if err := model.ValidateInventory(&fettlev1.Inventory{Cpus: 1, Gpus: gpus}); err != nil {
				t.Fatalf("the controller refuses it: %v", err)
			}
			listed := make(map[string]bool)
			for _, g := range inv.GPUs {
				listed[g.UUID] = true
			}
			now := make(map[string]uint32)
			for _, g := range gpus {
				now[g.GetUuid()] = g.GetIndex()
				if !listed[g.GetUuid()] && !g.GetUnhealthy() {
					t.Fatalf("%s is healthy but not listed", g.GetUuid())
				}
				if (g.GetMig() == report.MIGEnabled) && !g.GetUnhealthy() {
					t.Fatalf("%s is divided and may be given away whole", g.GetUuid())
				}
				for _, l := range g.GetLinks() {
					if l.GetPeer() == g.GetIndex() {
						t.Fatalf("%s is linked to itself", g.GetUuid())
					}
				}
			}
			for uuid := range listed {
				if _, ok := now[uuid]; !ok && len(gpus) < 64 {
					t.Fatalf("%s is listed and not in the book", uuid)
				}
			}
			for uuid, index := range now {
				if was, ok := place[uuid]; ok && was != index {
					t.Fatalf("%s moved from %d to %d", uuid, was, index)
				}
			}
			place = now
		}
	})
}
