//go:build cgo

package nvml

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

// inventory takes one and checks that the other side would accept it and read the same.
func inventory(t *testing.T, m *Machine) *report.Inventory {
	t.Helper()
	inv, err := m.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	return throughTheWire(t, report.Message{Inventory: inv}).Inventory
}

func throughTheWire(t *testing.T, m report.Message) report.Message {
	t.Helper()
	b, err := report.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := report.Decode(b)
	if err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	m.Version = report.Version
	if diff := cmp.Diff(m, got); diff != "" {
		t.Fatalf("changed on the wire: %s", diff)
	}
	return got
}

func TestMachines(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]struct {
		typ    string
		memory int64
	}{
		"dgxa100": {"a100", 40960}, "dgxh100": {"h100", 81920}, "dgxh200": {"h200", 144384}, "dgxb200": {"b200", 184320},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, kind)
			sys := fstest.MapFS{
				"bus/pci/devices/0000:1a:00.0/numa_node": {Data: []byte("0\n")},
				"bus/pci/devices/0000:1b:00.0/numa_node": {Data: []byte("1\n")},
				"bus/pci/devices/0000:1c:00.0/numa_node": {Data: []byte("-1\n")},
			}
			inv := inventory(t, b.open(t, sys))
			if inv.Driver == "" || inv.Note != "" || len(inv.Problems) > 0 || len(inv.GPUs) != 8 {
				t.Fatalf("inventory: %+v", inv)
			}
			for i, g := range inv.GPUs {
				// Where sysfs knows nothing, the driver's memory affinity (node 67 in the mock) counts.
				numa := []int32{0, 1, 67, 67, 67, 67, 67, 67}[i]
				var links []report.Link
				for j := range uint32(8) {
					if j != uint32(i) {
						links = append(links, report.Link{Peer: j, Links: 18})
					}
				}
				wantGPU := report.GPU{Index: uint32(i), UUID: fmt.Sprintf("GPU-%08d-0000-4000-8000-%012d", i+1, i+1), Model: g.Model, Type: want.typ,
					MemoryMiB: want.memory, PCIBusID: fmt.Sprintf("0000:%02x:00.0", 0x1a+i), Links: links, NUMANode: numa, MIG: "disabled"}
				if diff := cmp.Diff(wantGPU, g); diff != "" {
					t.Errorf("gpu %d: %s", i, diff)
				}
				if !strings.Contains(g.Model, strings.ToUpper(want.typ)) {
					t.Errorf("model %q", g.Model)
				}
			}
		})
	}
}

func TestReadings(t *testing.T) {
	t.Parallel()
	b := newBox(t, "dgxh100")
	b.procs[3] = []nvml.ProcessInfo{{Pid: 70, UsedGpuMemory: 5 << 30}, {Pid: 8, UsedGpuMemory: ^uint64(0)}, {Pid: 70, UsedGpuMemory: 2 << 30}}
	// A process that draws, and one that computes too.
	mockDevice(b, 3).GetGraphicsRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
		return []nvml.ProcessInfo{{Pid: 900, UsedGpuMemory: 1 << 20}, {Pid: 70, UsedGpuMemory: 5 << 30}}, nvml.SUCCESS
	}
	m := b.open(t, nil)
	inventory(t, m)
	r := throughTheWire(t, report.Message{Readings: m.Readings()}).Readings
	if len(r.GPUs) != 8 {
		t.Fatalf("%d readings", len(r.GPUs))
	}
	want := report.Reading{UUID: "GPU-00000004-0000-4000-8000-000000000004", MemoryUsedMiB: ptr(int64(3 << 10)), UtilisationPct: ptr(uint32(30)),
		TemperatureC: ptr(int32(43)), PowerW: ptr(uint32(101)), ECCUncorrected: ptr(uint64(3)),
		Processes: []report.Process{{PID: 8}, {PID: 70, MemoryMiB: 5 << 10}, {PID: 900, MemoryMiB: 1, Graphics: true}}}
	if diff := cmp.Diff(want, r.GPUs[3]); diff != "" {
		t.Error(diff)
	}
}

func ptr[T any](v T) *T { return &v }

// An old library lacks functions; the mock's versions of these panic, as the real ones would end the process.
func TestOldLibrary(t *testing.T) {
	t.Parallel()
	b := newBox(t, "dgxa100")
	b.lacks = []string{"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetNvLinkState",
		"nvmlDeviceGetP2PStatus", "nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetFieldValues",
		"nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetUtilizationRates",
		"nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses", "nvmlSystemGetDriverVersion",
		"nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo_v3", "nvmlEventSetCreate"}
	b.SystemGetDriverVersionFunc = nil
	for i := range b.Devices {
		d := mockDevice(b, i)
		d.GetMemoryInfo_v2Func, d.GetMigModeFunc, d.GetMaxMigDeviceCountFunc, d.GetNvLinkStateFunc = nil, nil, nil, nil
		d.GetP2PStatusFunc, d.GetMemoryAffinityFunc, d.GetRemappedRowsFunc, d.GetFieldValuesFunc = nil, nil, nil, nil
		d.GetTemperatureFunc, d.GetPowerUsageFunc, d.GetTotalEccErrorsFunc, d.GetUtilizationRatesFunc = nil, nil, nil, nil
		d.GetComputeRunningProcessesFunc, d.GetGraphicsRunningProcessesFunc, d.GetPciInfoFunc = nil, nil, nil
	}
	m := b.open(t, nil)
	inv := inventory(t, m)
	want := report.GPU{Index: 2, UUID: "GPU-00000003-0000-4000-8000-000000000003", Model: inv.GPUs[2].Model, Type: "a100", MemoryMiB: 40960, NUMANode: -1}
	if diff := cmp.Diff(want, inv.GPUs[2]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(report.Reading{UUID: want.UUID, MemoryUsedMiB: ptr(int64(3 << 10))}, m.Readings().GPUs[2]); diff != "" {
		t.Error(diff)
	}
}

// Every function that is missing takes away only what it tells.
func TestEachMissingFunction(t *testing.T) {
	t.Parallel()
	b := newBox(t, "dgxh200")
	m := b.open(t, nil)
	inventory(t, m)
	m.Readings()
	all := make([]string, 0)
	for name := range m.drv.(*library).symbols {
		all = append(all, name)
	}
	if len(all) < 15 {
		t.Fatalf("only %d functions are looked up before they are called: %v", len(all), all)
	}
	for _, name := range all {
		b := newBox(t, "dgxh200")
		b.lacks = []string{name}
		m, err := Open(b.driver(), fstest.MapFS{})
		if err != nil {
			t.Errorf("without %s: %v", name, err)
			continue
		}
		inv, err := m.Inventory()
		switch name {
		case "nvmlDeviceGetCount":
			if err == nil {
				t.Errorf("without %s: %+v", name, inv)
			}
		case "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID":
			if err != nil || len(inv.GPUs) != 0 || len(inv.Problems) != 8 {
				t.Errorf("without %s: %+v, %v", name, inv, err)
			}
		default:
			if err != nil || len(inv.GPUs) != 8 || len(m.Readings().GPUs) != 8 {
				t.Errorf("without %s: %+v, %v", name, inv, err)
			}
		}
	}
}

func TestNVLink(t *testing.T) {
	t.Parallel()
	t.Run("mesh", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxa100")
		b.mesh, b.links = true, 12
		inv := inventory(t, b.open(t, nil))
		total := uint32(0)
		for _, l := range inv.GPUs[2].Links {
			total += l.Links
		}
		if total != 12 || len(inv.GPUs[2].Links) != 7 {
			t.Errorf("links %v, want 12 over 7 peers", inv.GPUs[2].Links)
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh100")
		for i := range b.Devices {
			mockDevice(b, i).GetNvLinkStateFunc = func(int) (nvml.EnableState, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
		}
		if g := inventory(t, b.open(t, nil)).GPUs[0]; len(g.Links) > 0 {
			t.Errorf("links %v", g.Links)
		}
	})
	t.Run("switch without fabric", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh100")
		b.p2p = nvml.GpuP2PStatus(1)
		if g := inventory(t, b.open(t, nil)).GPUs[0]; len(g.Links) > 0 {
			t.Errorf("links %v although the driver says the cards cannot speak", g.Links)
		}
	})
	t.Run("one weaker card", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh100")
		mockDevice(b, 5).GetNvLinkStateFunc = func(link int) (nvml.EnableState, nvml.Return) {
			if link < 4 {
				return nvml.FEATURE_ENABLED, nvml.SUCCESS
			}
			return nvml.FEATURE_DISABLED, nvml.SUCCESS
		}
		inv := inventory(t, b.open(t, nil))
		if l := inv.GPUs[0].Links; l[3].Links != 18 || l[4].Peer != 5 || l[4].Links != 4 {
			t.Errorf("links of gpu 0: %v", l)
		}
	})
}

func TestMIG(t *testing.T) {
	t.Parallel()
	b := newBox(t, "dgxh100")
	b.divide(1, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "", "NVIDIA H100 80GB HBM3")
	b.divide(6)
	m := b.open(t, nil)
	inv := inventory(t, m)
	if len(inv.GPUs) != 10 || inv.GPUs[0].MIG != "disabled" || inv.GPUs[1].MIG != "enabled" || inv.GPUs[6].MIG != "enabled" {
		t.Fatalf("inventory %+v", inv)
	}
	card := inv.GPUs[1]
	want := []report.GPU{
		{Index: 8, UUID: "MIG-00000002-0000", Model: "NVIDIA H100 80GB HBM3 MIG 1g.10gb", Type: "h100-1g.10gb", MemoryMiB: 20 << 10, PCIBusID: card.PCIBusID,
			NUMANode: card.NUMANode, MIG: "instance", Parent: card.UUID},
		// Its name tells no shape: the driver's attributes do.
		{Index: 9, UUID: "MIG-00000002-0002", Model: "NVIDIA H100 80GB HBM3", Type: "h100-2g.20gb", MemoryMiB: 20 << 10, PCIBusID: card.PCIBusID,
			NUMANode: card.NUMANode, MIG: "instance", Parent: card.UUID},
	}
	if diff := cmp.Diff(want, inv.GPUs[8:]); diff != "" {
		t.Error(diff)
	}
	r := m.Readings()
	if diff := cmp.Diff(report.Reading{UUID: "MIG-00000002-0000", MemoryUsedMiB: ptr(int64(3 << 10))}, r.GPUs[8]); diff != "" {
		t.Error(diff)
	}
}

func TestFullyDivided(t *testing.T) {
	t.Parallel()
	b := newBox(t, "dgxa100")
	for i := range b.Devices {
		b.divide(i, slices.Repeat([]string{"NVIDIA A100-SXM4-40GB MIG 1g.5gb"}, 7)...)
	}
	inv := inventory(t, b.open(t, nil))
	if len(inv.GPUs) != 64 || len(inv.Problems) > 0 {
		t.Errorf("%d devices, problems %v; 8 cards and 56 instances are what a node may have", len(inv.GPUs), inv.Problems)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	b := newBox(t, "dgxh200")
	b.lost[2] = true
	b.remap[3] = true
	b.recovery[4] = nvml.GPU_RECOVERY_ACTION_GPU_RESET
	b.recovery[5] = nvml.GPU_RECOVERY_ACTION_NODE_REBOOT
	b.recovery[6] = 99
	mockDevice(b, 7).GetUUIDFunc = func() (string, nvml.Return) { return "", nvml.ERROR_GPU_IS_LOST }
	m := b.open(t, nil)
	inv := inventory(t, m)
	got := make(map[uint32]string)
	for _, g := range inv.GPUs {
		got[g.Index] = g.Fault
	}
	want := map[uint32]string{0: "", 1: "", 2: "the GPU is lost or needs a reset",
		3: "broken memory could not be replaced by spare memory: replace the card", 4: "the driver wants the GPU reset",
		5: "the driver wants the machine rebooted", 6: "the driver wants recovery action 99"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"gpu 7: the GPU is lost or needs a reset"}, inv.Problems); diff != "" {
		t.Error(diff)
	}
	if r := m.Readings().GPUs[2]; !reflect.DeepEqual(r, report.Reading{UUID: r.UUID}) {
		t.Errorf("reading of a lost card: %+v", r)
	}
}

func TestOddities(t *testing.T) {
	t.Parallel()
	t.Run("two cards with one UUID", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh200")
		mockDevice(b, 1).UUID = mockDevice(b, 0).UUID
		inv := inventory(t, b.open(t, nil))
		if len(inv.GPUs) != 7 || len(inv.Problems) != 1 {
			t.Errorf("inventory %+v", inv)
		}
	})
	t.Run("a UUID that no job could name", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh200")
		mockDevice(b, 0).UUID = "GPU-a,GPU-b"
		inv := inventory(t, b.open(t, nil))
		if len(inv.GPUs) != 7 || len(inv.Problems) != 1 || inv.GPUs[0].Index != 1 {
			t.Errorf("inventory %+v", inv)
		}
	})
	t.Run("names from another world", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh200")
		mockDevice(b, 0).Config.Name = strings.Repeat("\x1b[31m\xff\n", 100)
		mockDevice(b, 0).MemoryInfo.Total = ^uint64(0)
		g := inventory(t, b.open(t, nil)).GPUs[0]
		if g.Type == "" || g.MemoryMiB != report.MaxMemoryMiB {
			t.Errorf("gpu %+v", g)
		}
	})
	t.Run("no GPU", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh200")
		b.Server.Devices = nil
		inv := inventory(t, b.open(t, nil))
		if len(inv.GPUs) != 0 || inv.Note == "" || inv.Driver == "" {
			t.Errorf("inventory %+v", inv)
		}
	})
	t.Run("very many processes", func(t *testing.T) {
		t.Parallel()
		b := newBox(t, "dgxh200")
		for pid := range uint32(1000) {
			b.procs[0] = append(b.procs[0], nvml.ProcessInfo{Pid: pid + 1, UsedGpuMemory: uint64(pid) << 20})
		}
		m := b.open(t, nil)
		inventory(t, m)
		p := throughTheWire(t, report.Message{Readings: m.Readings()}).Readings.GPUs[0].Processes
		if len(p) != report.MaxProcesses || p[0].PID != 1000-report.MaxProcesses+1 {
			t.Errorf("%d processes from %d", len(p), p[0].PID)
		}
	})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ret  nvml.Return
		note string
		err  error
	}{
		"no library": {nvml.ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver library is installed", nil},
		"no driver":  {nvml.ERROR_DRIVER_NOT_LOADED, "no NVIDIA driver is loaded", nil},
		"mismatch":   {nvml.ERROR_LIB_RM_VERSION_MISMATCH, "", ErrMismatch},
		"refused":    {nvml.ERROR_NO_PERMISSION, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, "dgxh100")
			b.InitFunc = func() nvml.Return { return c.ret }
			// What is called without a driver ends the process.
			b.ShutdownFunc, b.DeviceGetCountFunc, b.SystemGetDriverVersionFunc, b.LookupSymbolFunc = nil, nil, nil, nil
			m, err := Open(b.driver(), fstest.MapFS{})
			if c.note == "" {
				if err == nil || c.err != nil && !errors.Is(err, c.err) {
					t.Fatalf("error %v, want %v", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			inv := inventory(t, m)
			if inv.Note != c.note || len(inv.GPUs) != 0 || m.HasDriver() {
				t.Errorf("inventory %+v", inv)
			}
			if r := m.Readings(); len(r.GPUs) != 0 {
				t.Errorf("readings %+v", r)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBusID(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"00000000:1B:00.0": "0000:1b:00.0", "0000:1b:00.0": "0000:1b:00.0", "00010000:C1:00.0": "00010000:c1:00.0",
		"0001:C1:00.0": "0001:c1:00.0", "": "", "junk": "junk", "0000000a:01:00.0": "000a:01:00.0",
	} {
		if got := busID(in); got != want {
			t.Errorf("busID(%q) = %q, want %q", in, got, want)
		}
	}
}
