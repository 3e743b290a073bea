package gres

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// maxXIDs is how many Xids are remembered for each card.
const maxXIDs = 16

// book remembers every card that was seen: its place, its errors, whether it is still there. It has no clock and no lock.
type book struct {
	cards map[string]*card
	// down is why the driver cannot be asked; empty while it answers.
	down string
	// readings are the newest round, by UUID.
	readings map[string]report.Reading
}

// card is a GPU or a MIG instance.
type card struct {
	gpu report.GPU
	// index is the card's place in this book, which may differ from the driver's after a card was lost.
	index uint32
	// links are by place in this book.
	links   []report.Link
	gone    bool
	barred  bool // the driver said that it became unavailable
	verdict verdict
	// xids are the newest, oldest first.
	xids []uint32
}

// inventory takes what the driver lists.
func (b *book) inventory(inv *report.Inventory) {
	if b.cards == nil {
		b.cards = make(map[string]*card)
	}
	listed := make(map[string]bool, len(inv.GPUs))
	sound := make(map[string]bool, len(inv.GPUs))
	for _, g := range inv.GPUs {
		listed[g.UUID] = true
		sound[g.UUID] = g.Fault == ""
	}
	for uuid, c := range b.cards {
		if listed[uuid] {
			continue
		}
		// An instance that vanishes while its card is well was taken apart by the administrator.
		if c.gpu.MIG == report.MIGInstance && sound[c.gpu.Parent] {
			delete(b.cards, uuid)
			continue
		}
		c.gone = true
	}
	for _, g := range inv.GPUs {
		if c := b.cards[g.UUID]; c != nil {
			c.gone = false
			if g.Fault != "" && g.Model == "" {
				// A card that does not even tell its name has not become another one.
				c.gpu.Fault = g.Fault
				continue
			}
			c.gpu = g
			continue
		}
		if index, ok := b.place(g.Index); ok {
			b.cards[g.UUID] = &card{gpu: g, index: index}
		}
	}
	// Links are told by the driver's indexes.
	by := make(map[uint32]*card, len(inv.GPUs))
	for _, g := range inv.GPUs {
		if c := b.cards[g.UUID]; c != nil {
			by[g.Index] = c
		}
	}
	for _, g := range inv.GPUs {
		c := b.cards[g.UUID]
		if c == nil {
			continue
		}
		c.links = nil
		for _, l := range g.Links {
			if peer := by[l.Peer]; peer != nil {
				c.links = append(c.links, report.Link{Peer: peer.index, Links: l.Links})
			}
		}
		slices.SortFunc(c.links, func(x, y report.Link) int { return cmp.Compare(x.Peer, y.Peer) })
	}
}

// place finds an index for a new card: the driver's own if it is free, else the lowest that is. When none is free, a card
// that is gone makes room.
func (b *book) place(wish uint32) (uint32, bool) {
	taken := make(map[uint32]string, len(b.cards))
	var gone []uint32
	for uuid, c := range b.cards {
		taken[c.index] = uuid
		if c.gone {
			gone = append(gone, c.index)
		}
	}
	if _, ok := taken[wish]; !ok && wish <= gres.MaxDeviceIndex {
		return wish, true
	}
	for i := range uint32(gres.MaxDeviceIndex + 1) {
		if _, ok := taken[i]; !ok {
			return i, true
		}
	}
	if len(gone) == 0 {
		return 0, false
	}
	i := slices.Min(gone)
	delete(b.cards, taken[i])
	return i, true
}

// event takes something that happened to a card. Events of unknown cards are not kept.
func (b *book) event(ev *report.Event, now time.Time) {
	c := b.cards[ev.UUID]
	if c == nil {
		return
	}
	switch ev.Kind {
	case report.EventXID:
		c.xids = append(c.xids, ev.XID)
		if len(c.xids) > maxXIDs {
			c.xids = slices.Clone(c.xids[len(c.xids)-maxXIDs:])
		}
		c.verdict.hear(ev.XID, now)
	case report.EventUnavailable:
		c.barred = true
	}
}

// round takes a round of readings.
func (b *book) round(r *report.Readings) {
	b.readings = make(map[string]report.Reading, len(r.GPUs))
	for _, g := range r.GPUs {
		b.readings[g.UUID] = g
	}
}

func (b *book) sorted() []*card {
	list := make([]*card, 0, len(b.cards))
	for _, c := range b.cards {
		list = append(list, c)
	}
	slices.SortFunc(list, func(x, y *card) int { return cmp.Compare(x.index, y.index) })
	return list
}

// gpus lists the cards by index.
func (b *book) gpus() []*fettlev1.GPU {
	divided := make(map[string]bool)
	for _, c := range b.cards {
		divided[c.gpu.Parent] = true
	}
	var list []*fettlev1.GPU
	for _, c := range b.sorted() {
		g := &fettlev1.GPU{Index: c.index, Uuid: c.gpu.UUID, Type: c.gpu.Type, Model: c.gpu.Model, MemoryMib: c.gpu.MemoryMiB,
			PciBusId: c.gpu.PCIBusID, NumaNode: c.gpu.NUMANode, Mig: c.gpu.MIG, MigParent: c.gpu.Parent}
		for _, l := range c.links {
			g.Links = append(g.Links, &fettlev1.NVLink{Peer: l.Peer, Links: l.Links})
		}
		why := b.trouble(c)
		if c.gpu.MIG == report.MIGEnabled {
			if divided[c.gpu.UUID] {
				why = append(why, "MIG is on: its instances are given to jobs instead")
			} else {
				why = append(why, "MIG is on and there is no instance: make some, or switch MIG off")
			}
		}
		g.Unhealthy = len(why) > 0
		g.HealthDetail = strings.Join(why, "; ")
		list = append(list, g)
	}
	return list
}

// trouble says what speaks against a card. What does against a card does against its instances.
func (b *book) trouble(c *card) []string {
	var why []string
	if b.down != "" {
		why = append(why, b.down)
	}
	whole := c
	if p := b.cards[c.gpu.Parent]; p != nil {
		whole = p
	}
	switch {
	case whole.gone || c.gone:
		why = append(why, "the driver no longer lists it")
	case whole.gpu.Fault != "":
		why = append(why, whole.gpu.Fault)
	case c.gpu.Fault != "":
		why = append(why, c.gpu.Fault)
	}
	if whole.verdict.detail != "" {
		why = append(why, whole.verdict.detail)
	}
	if whole.barred {
		why = append(why, "the driver said that it became unavailable: reset the card, then restart fettle-noded")
	}
	return why
}

// used lists the readings by the cards' indexes. Xids are told even where nothing could be read.
func (b *book) used() []*fettlev1.GPUReading {
	var list []*fettlev1.GPUReading
	for _, c := range b.sorted() {
		r, ok := b.readings[c.gpu.UUID]
		if !ok && len(c.xids) == 0 {
			continue
		}
		out := &fettlev1.GPUReading{Uuid: c.gpu.UUID, MemoryUsedMib: copied(r.MemoryUsedMiB), UtilisationPct: copied(r.UtilisationPct),
			TemperatureC: copied(r.TemperatureC), PowerW: copied(r.PowerW), EccUncorrected: copied(r.ECCUncorrected), Xids: slices.Clone(c.xids)}
		for _, p := range r.Processes {
			out.Processes = append(out.Processes, &fettlev1.GPUProcess{Pid: p.PID, MemoryMib: p.MemoryMiB, Graphics: p.Graphics})
		}
		list = append(list, out)
	}
	return list
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func cloneAll(gpus []*fettlev1.GPU) []*fettlev1.GPU {
	list := make([]*fettlev1.GPU, len(gpus))
	for i, g := range gpus {
		list[i] = proto.CloneOf(g)
	}
	return list
}

func equal(a, b []*fettlev1.GPU) bool {
	return slices.EqualFunc(a, b, func(x, y *fettlev1.GPU) bool { return proto.Equal(x, y) })
}
