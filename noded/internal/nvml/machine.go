package nvml

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// Machine is what the driver tells of this machine's GPUs. It is used by one goroutine at a time.
type Machine struct {
	drv Driver
	sys fs.FS
	// note says why there is no driver; empty when there is one.
	note    string
	version string
	// devices are those of the last inventory, in its order.
	devices []listed
}

// listed is a device and its place in the inventory.
type listed struct {
	dev  Device
	uuid string
	// whole is false for a MIG instance.
	whole bool
}

// Open initialises the driver. A machine without library or driver is opened too: it has no GPUs. sysfs is where the
// kernel tells of PCI devices; nil means /sys.
func Open(drv Driver, sysfs fs.FS) (*Machine, error) {
	if sysfs == nil {
		sysfs = os.DirFS("/sys")
	}
	m := &Machine{drv: drv, sys: sysfs}
	switch err := drv.Init(); {
	case errors.Is(err, ErrNoDriver):
		m.note = report.Text(err.Error())
		return m, nil
	case err != nil:
		return nil, fmt.Errorf("initialise the NVIDIA driver: %w", err)
	}
	if v, err := drv.Version(); err == nil {
		m.version = report.Text(v)
	}
	return m, nil
}

// HasDriver reports whether there is a driver to ask.
func (m *Machine) HasDriver() bool { return m.note == "" }

// Close ends the use of the driver.
func (m *Machine) Close() error {
	if !m.HasDriver() {
		return nil
	}
	return m.drv.Shutdown()
}

// Inventory lists whole GPUs in the driver's order, then the MIG instances of each. Instances get the indexes after the
// last GPU. What cannot be listed is named in Problems; only a driver that cannot say how many GPUs there are is an error.
func (m *Machine) Inventory() (*report.Inventory, error) {
	inv := &report.Inventory{Driver: m.version, GPUs: []report.GPU{}, Note: m.note}
	m.devices = nil
	if !m.HasDriver() {
		return inv, nil
	}
	count, err := m.drv.Count()
	if err != nil {
		return nil, fmt.Errorf("count GPUs: %w", err)
	}
	if count == 0 {
		inv.Note = "the NVIDIA driver knows of no GPU"
	}
	l := lister{m: m, inv: inv, seen: make(map[string]bool)}
	for i := range min(count, gres.MaxGPUsPerNode) {
		l.card(i)
	}
	if count > gres.MaxGPUsPerNode {
		l.problem("%d GPUs: only the first %d are used", count, gres.MaxGPUsPerNode)
	}
	cards := len(l.devices)
	for i := range cards {
		if inv.GPUs[i].MIG == report.MIGEnabled {
			l.instances(i, count)
		}
	}
	l.link(cards)
	m.devices = l.devices
	return inv, nil
}

// lister fills one inventory. devices runs beside inv.GPUs.
type lister struct {
	m       *Machine
	inv     *report.Inventory
	devices []listed
	seen    map[string]bool
}

func (l *lister) problem(format string, args ...any) {
	if len(l.inv.Problems) < report.MaxProblems {
		l.inv.Problems = append(l.inv.Problems, report.Text(fmt.Sprintf(format, args...)))
	}
}

func (l *lister) add(dev Device, g report.GPU) {
	l.inv.GPUs = append(l.inv.GPUs, g)
	l.devices = append(l.devices, listed{dev: dev, uuid: g.UUID, whole: g.MIG != report.MIGInstance})
	l.seen[g.UUID] = true
}

// card lists the whole GPU with this index.
func (l *lister) card(index int) {
	dev, err := l.m.drv.Device(index)
	if err != nil {
		l.problem("gpu %d: %v", index, err)
		return
	}
	uuid, ok := l.uuid(dev, fmt.Sprintf("gpu %d", index))
	if !ok {
		return
	}
	g := report.GPU{Index: uint32(index), UUID: uuid, NUMANode: -1}
	// A card that is lost fails at everything that follows; its name and memory are then as unknown as the rest.
	if name, err := dev.Name(); err == nil {
		g.Model, g.Type = report.Text(name), Type(name)
	} else {
		g.Type = unknownType
	}
	total, _, err := dev.Memory()
	if errors.Is(err, ErrLost) {
		g.Fault = ErrLost.Error()
	}
	g.MemoryMiB = mib(total)
	if id, err := dev.PCIBusID(); err == nil {
		g.PCIBusID = report.Text(busID(id))
	}
	g.NUMANode = l.m.numaNode(dev, g.PCIBusID)
	switch on, err := dev.MIG(); {
	case err != nil:
	case on:
		g.MIG = report.MIGEnabled
	default:
		g.MIG = report.MIGDisabled
	}
	if g.Fault == "" {
		g.Fault = fault(dev)
	}
	l.add(dev, g)
}

// uuid reads a device's UUID and refuses one that jobs could not name.
func (l *lister) uuid(dev Device, what string) (string, bool) {
	uuid, err := dev.UUID()
	if err == nil {
		err = report.CheckUUID(uuid)
	}
	if err == nil && l.seen[uuid] {
		err = fmt.Errorf("the UUID %s belongs to another device too", uuid)
	}
	if err != nil {
		l.problem("%s: %v", what, err)
		return "", false
	}
	return uuid, true
}

// instances lists the MIG instances of the card at a place in the inventory. Their indexes start after the last card's.
func (l *lister) instances(card, cards int) {
	dev, g := l.devices[card].dev, l.inv.GPUs[card]
	slots, err := dev.MIGSlots()
	if err != nil {
		l.problem("gpu %d: list MIG instances: %v", g.Index, err)
		return
	}
	for slot := range slots {
		part, err := dev.MIGInstance(slot)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		what := fmt.Sprintf("gpu %d, MIG instance %d", g.Index, slot)
		if err != nil {
			l.problem("%s: %v", what, err)
			continue
		}
		uuid, ok := l.uuid(part, what)
		if !ok {
			continue
		}
		index := uint32(max(cards, 0))
		if last := l.inv.GPUs[len(l.inv.GPUs)-1]; last.MIG == report.MIGInstance {
			index = last.Index + 1
		}
		if index > gres.MaxDeviceIndex {
			l.problem("%s: left out: a node has at most %d devices", what, gres.MaxGPUsPerNode)
			continue
		}
		l.add(part, instance(part, g, index, uuid))
	}
}

func instance(part Device, card report.GPU, index uint32, uuid string) report.GPU {
	g := report.GPU{Index: index, UUID: uuid, Model: card.Model, PCIBusID: card.PCIBusID, NUMANode: card.NUMANode,
		MIG: report.MIGInstance, Parent: card.UUID}
	shape := ""
	if name, err := part.Name(); err == nil {
		g.Model, shape = report.Text(name), Profile(name)
	}
	if total, _, err := part.Memory(); err == nil {
		g.MemoryMiB = mib(total)
	}
	if slices, memory, err := part.MIGShape(); err == nil {
		if shape == "" && slices > 0 {
			// The library rounds to whole gigabytes in the names that it gives.
			shape = fmt.Sprintf("%dg.%dgb", slices, (memory+512)/1024)
		}
		if g.MemoryMiB == 0 {
			g.MemoryMiB = min(int64(memory), report.MaxMemoryMiB)
		}
	}
	g.Type = instanceType(card.Type, shape)
	return g
}

// fault says what speaks against using a card.
func fault(dev Device) string {
	if failed, err := dev.RowRemapFailed(); err == nil && failed {
		return "broken memory could not be replaced by spare memory: replace the card"
	}
	action, err := dev.Recovery()
	if err != nil {
		return ""
	}
	switch action {
	case RecoveryNone:
		return ""
	case RecoveryReset, RecoveryBusReset:
		return "the driver wants the GPU reset"
	case RecoveryDrainAndReset:
		return "the driver wants the GPU drained and reset"
	case RecoveryDrainP2P:
		return "the driver wants traffic between GPUs stopped and the GPU reset"
	case RecoveryReboot, RecoverySystemReboot:
		return "the driver wants the machine rebooted"
	case RecoveryIMEX:
		return "the driver wants the IMEX domain recovered"
	}
	return "the driver wants recovery action " + strconv.Itoa(int(action))
}

// numaNode is the node that the GPU's memory traffic is closest to; -1 when nobody knows.
func (m *Machine) numaNode(dev Device, bus string) int32 {
	if bus != "" {
		if b, err := fs.ReadFile(m.sys, "bus/pci/devices/"+bus+"/numa_node"); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 16); err == nil && n >= 0 {
				return int32(n)
			}
		}
	}
	if n, err := dev.NUMANode(); err == nil && n >= 0 && n < 1<<15 {
		return int32(n)
	}
	return -1
}

// busID puts a PCI address as the driver spells it (00000000:1B:00.0) into sysfs's form (0000:1b:00.0), by which GPUs are
// compared too. What is no address is only lowered.
func busID(id string) string {
	id = strings.ToLower(strings.TrimSpace(id))
	domain, rest, ok := strings.Cut(id, ":")
	if !ok || len(domain) != 8 {
		return id
	}
	if short, ok := strings.CutPrefix(domain, "0000"); ok {
		return short + ":" + rest
	}
	return id
}

func mib(bytes uint64) int64 {
	return int64(min(bytes>>20, report.MaxMemoryMiB))
}
