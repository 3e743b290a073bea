package nvml

import (
	"errors"
	"slices"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

// reach is what one card's NVLinks lead to.
type reach struct {
	// direct counts links by the far card's PCI address.
	direct map[string]uint32
	// switched counts links that end in a switch.
	switched uint32
}

// link fills in who is linked to whom among the first cards of the inventory. Links through switches count between all
// cards that have such links, as many as the one with fewer of them has, unless the driver says that the two cannot speak.
func (l *lister) link(cards int) {
	reaches := make([]reach, cards)
	for i := range cards {
		reaches[i] = links(l.devices[i].dev)
	}
	for i := range cards {
		for j := range cards {
			if i == j {
				continue
			}
			n := uint32(0)
			if bus := l.inv.GPUs[j].PCIBusID; bus != "" {
				n = reaches[i].direct[bus]
			}
			if shared := min(reaches[i].switched, reaches[j].switched); shared > 0 {
				if ok, err := l.devices[i].dev.Peer(l.devices[j].dev); ok || err != nil {
					n += shared
				}
			}
			if n > 0 {
				l.inv.GPUs[i].Links = append(l.inv.GPUs[i].Links, report.Link{Peer: l.inv.GPUs[j].Index, Links: n})
			}
		}
		slices.SortFunc(l.inv.GPUs[i].Links, func(a, b report.Link) int { return int(a.Peer) - int(b.Peer) })
	}
}

func links(dev Device) reach {
	r := reach{direct: make(map[string]uint32)}
	for n := range MaxLinks {
		far, err := dev.Link(n)
		switch {
		case errors.Is(err, ErrNotSupported), errors.Is(err, ErrLost):
			return r
		case err != nil:
		case far.Switch:
			r.switched++
		case far.PCIBusID != "":
			r.direct[busID(far.PCIBusID)]++
		}
	}
	return r
}
