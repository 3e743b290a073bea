//go:build cgo

package nvml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxb200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
)

// box is one of go-nvml's mock machines with the functions set that those lack. Its fields may be changed before use; what
// happens to it later goes through its methods.
type box struct {
	*server.Server
	// links is the number of NVLinks of each card. mesh joins the cards directly, each link to the next card in turn;
	// otherwise the links end in switches.
	links int
	mesh  bool
	// lacks are functions that this machine's library does not have.
	lacks []string
	// p2p is what the driver says of two cards.
	p2p nvml.GpuP2PStatus

	mu       sync.Mutex
	lost     map[int]bool
	recovery map[int]nvml.DeviceGpuRecoveryAction
	remap    map[int]bool
	procs    map[int][]nvml.ProcessInfo
	mig      map[int][]*server.Device

	events     chan nvml.EventData
	registered []nvml.Device
	freed      int
	// waitFunc is what the event sets do; wait unless a test sets something else.
	waitFunc func(ms uint32) (nvml.EventData, nvml.Return)
}

// boxes are the four machines.
var boxes = map[string]func() *server.Server{
	"dgxa100": dgxa100.New, "dgxh100": dgxh100.New, "dgxh200": dgxh200.New, "dgxb200": dgxb200.New,
}

func newBox(t *testing.T, kind string) *box {
	t.Helper()
	b := &box{Server: boxes[kind](), links: 18, lost: make(map[int]bool), recovery: make(map[int]nvml.DeviceGpuRecoveryAction),
		remap: make(map[int]bool), procs: make(map[int][]nvml.ProcessInfo), mig: make(map[int][]*server.Device),
		events: make(chan nvml.EventData, 256)}
	b.waitFunc = b.wait
	b.LookupSymbolFunc = func(name string) error {
		if slices.Contains(b.lacks, name) {
			return errors.New("undefined symbol: " + name)
		}
		return nil
	}
	b.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) {
		return &mock.EventSet{WaitFunc: func(ms uint32) (nvml.EventData, nvml.Return) { return b.waitFunc(ms) }, FreeFunc: func() nvml.Return {
			b.freed++
			return nvml.SUCCESS
		}}, nvml.SUCCESS
	}
	for i, d := range b.Devices {
		b.equip(d.(*server.Device), i)
	}
	return b
}

// equip sets the functions that a mock device lacks.
func (b *box) equip(d *server.Device, i int) {
	d.UUID = fmt.Sprintf("GPU-%08d-0000-4000-8000-%012d", i+1, i+1)
	d.PciBusID = fmt.Sprintf("00000000:%02X:00.0", 0x1a+i)
	ret := func() nvml.Return {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.lost[i] {
			return nvml.ERROR_GPU_IS_LOST
		}
		return nvml.SUCCESS
	}
	d.GetUUIDFunc = func() (string, nvml.Return) { return d.UUID, nvml.SUCCESS }
	d.GetNameFunc = func() (string, nvml.Return) { return d.Config.Name, ret() }
	d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) {
		m := d.MemoryInfo
		m.Used = uint64(i+1) << 30
		return m, ret()
	}
	d.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) {
		return nvml.Memory_v2{Total: d.MemoryInfo.Total, Used: uint64(i) << 30, Reserved: 1 << 30}, ret()
	}
	d.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) { return pciInfo(d.PciBusID), ret() }
	d.GetMemoryAffinityFunc = func(int, nvml.AffinityScope) ([]uint, nvml.Return) {
		set := make([]uint, 16)
		set[1] = 1 << 3
		return set, ret()
	}
	d.GetMigModeFunc = func() (int, int, nvml.Return) { return d.MigMode, d.MigMode, ret() }
	d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 7, ret() }
	d.GetMigDeviceHandleByIndexFunc = func(slot int) (nvml.Device, nvml.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if slot < len(b.mig[i]) && b.mig[i][slot] != nil {
			return b.mig[i][slot], nvml.SUCCESS
		}
		return nil, nvml.ERROR_NOT_FOUND
	}
	d.GetNvLinkStateFunc = func(link int) (nvml.EnableState, nvml.Return) {
		switch {
		case link > b.links:
			return 0, nvml.ERROR_INVALID_ARGUMENT
		case link == b.links: // there but down
			return nvml.FEATURE_DISABLED, ret()
		}
		return nvml.FEATURE_ENABLED, ret()
	}
	d.GetNvLinkRemoteDeviceTypeFunc = func(int) (nvml.IntNvLinkDeviceType, nvml.Return) {
		if b.mesh {
			return nvml.NVLINK_DEVICE_TYPE_GPU, ret()
		}
		return nvml.NVLINK_DEVICE_TYPE_SWITCH, ret()
	}
	d.GetNvLinkRemotePciInfoFunc = func(link int) (nvml.PciInfo, nvml.Return) {
		if !b.mesh {
			return pciInfo("00000000:C1:00.0"), ret()
		}
		far := (i + 1 + link%(len(b.Devices)-1)) % len(b.Devices)
		return pciInfo(b.Devices[far].(*server.Device).PciBusID), ret()
	}
	d.GetP2PStatusFunc = func(nvml.Device, nvml.GpuP2PCapsIndex) (nvml.GpuP2PStatus, nvml.Return) { return b.p2p, ret() }
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
		return nvml.Utilization{Gpu: uint32(10 * i), Memory: 99}, ret()
	}
	d.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return uint32(40 + i), ret() }
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return uint32(100_600 + i), ret() }
	d.GetTotalEccErrorsFunc = func(kind nvml.MemoryErrorType, counter nvml.EccCounterType) (uint64, nvml.Return) {
		if kind != nvml.MEMORY_ERROR_TYPE_UNCORRECTED || counter != nvml.VOLATILE_ECC {
			return 0, nvml.ERROR_INVALID_ARGUMENT
		}
		return uint64(i), ret()
	}
	d.GetRemappedRowsFunc = func() (int, int, bool, bool, nvml.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return 1, 1, true, b.remap[i], nvml.SUCCESS
	}
	d.GetFieldValuesFunc = func(values []nvml.FieldValue) nvml.Return {
		b.mu.Lock()
		defer b.mu.Unlock()
		if values[0].FieldId != nvml.FI_DEV_GET_GPU_RECOVERY_ACTION {
			return nvml.ERROR_INVALID_ARGUMENT
		}
		values[0].ValueType = uint32(nvml.VALUE_TYPE_UNSIGNED_INT)
		binary.NativeEndian.PutUint32(values[0].Value[:], uint32(b.recovery[i]))
		return nvml.SUCCESS
	}
	d.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.procs[i], nvml.SUCCESS
	}
	d.GetGraphicsRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.ERROR_NOT_SUPPORTED }
	d.GetSupportedEventTypesFunc = func() (uint64, nvml.Return) {
		return nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError | nvml.EventTypeClock, ret()
	}
	d.RegisterEventsFunc = func(types uint64, _ nvml.EventSet) nvml.Return {
		if types != nvml.EventTypeXidCriticalError|nvml.EventTypeDoubleBitEccError {
			return nvml.ERROR_INVALID_ARGUMENT
		}
		b.registered = append(b.registered, d)
		return nvml.SUCCESS
	}
}

// divide switches MIG on and makes instances of a card; nil stands for a slot that is free.
func (b *box) divide(card int, names ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.Devices[card].(*server.Device)
	d.MigMode = nvml.DEVICE_MIG_ENABLE
	b.mig[card] = nil
	for slot, name := range names {
		if name == "" {
			b.mig[card] = append(b.mig[card], nil)
			continue
		}
		part := &server.Device{}
		part.GetUUIDFunc = func() (string, nvml.Return) { return fmt.Sprintf("MIG-%08d-%04d", card+1, slot), nvml.SUCCESS }
		part.GetNameFunc = func() (string, nvml.Return) { return name, nvml.SUCCESS }
		part.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) {
			return nvml.Memory_v2{Total: 20 << 30, Used: 3 << 30}, nvml.SUCCESS
		}
		part.GetAttributesFunc = func() (nvml.DeviceAttributes, nvml.Return) {
			return nvml.DeviceAttributes{GpuInstanceSliceCount: 2, MemorySizeMB: 20 << 10}, nvml.SUCCESS
		}
		part.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
		part.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS }
		part.GetGraphicsRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS }
		b.mig[card] = append(b.mig[card], part)
	}
}

func (b *box) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// wait is the event set's: the timeout passes on the test's clock.
func (b *box) wait(ms uint32) (nvml.EventData, nvml.Return) {
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	select {
	case ev := <-b.events:
		return ev, nvml.SUCCESS
	case <-timer.C:
		return nvml.EventData{}, nvml.ERROR_TIMEOUT
	}
}

func (b *box) driver() Driver { return &library{candidates: []nvml.Interface{b.Server}} }

func (b *box) open(t *testing.T, sysfs fstest.MapFS) *Machine {
	t.Helper()
	if sysfs == nil {
		sysfs = fstest.MapFS{}
	}
	m, err := Open(b.driver(), sysfs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func pciInfo(id string) nvml.PciInfo {
	var p nvml.PciInfo
	for i := range id {
		p.BusId[i] = int8(id[i])
	}
	return p
}

func mockDevice(b *box, i int) *server.Device { return b.Devices[i].(*server.Device) }
