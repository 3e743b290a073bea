//go:build cgo

package nvml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// places are where the library is looked for: first where the dynamic linker finds it, then where containers and WSL put
// it without telling the linker.
var places = []string{
	"libnvidia-ml.so.1",
	"/usr/local/nvidia/lib64/libnvidia-ml.so.1",
	"/usr/lib/wsl/lib/libnvidia-ml.so.1",
}

// Library is the driver's library at a path, or in the usual places when the path is empty. Nothing is opened before Init.
func Library(path string) Driver {
	paths := places
	if path != "" {
		paths = []string{path}
	}
	l := &library{}
	for _, p := range paths {
		l.candidates = append(l.candidates, nvml.New(nvml.WithLibraryPath(p)))
	}
	return l
}

// library puts go-nvml behind Driver.
type library struct {
	candidates []nvml.Interface
	// nvml is the candidate that could be initialised.
	nvml nvml.Interface
	// symbols remembers which functions the library has.
	symbols map[string]bool
}

func (l *library) Init() error {
	for _, c := range l.candidates {
		switch ret := c.Init(); ret {
		case nvml.SUCCESS, nvml.ERROR_ALREADY_INITIALIZED:
			l.nvml, l.symbols = c, make(map[string]bool)
			return nil
		case nvml.ERROR_LIBRARY_NOT_FOUND:
		case nvml.ERROR_DRIVER_NOT_LOADED:
			return fmt.Errorf("%w is loaded", ErrNoDriver)
		default:
			return failure(ret)
		}
	}
	return fmt.Errorf("%w library is installed", ErrNoDriver)
}

// has reports whether the library has all of these functions. A call to one that it lacks would end the process.
func (l *library) has(names ...string) bool {
	if l.nvml == nil {
		return false
	}
	for _, name := range names {
		known, asked := l.symbols[name]
		if !asked {
			known = l.nvml.Extensions().LookupSymbol(name) == nil
			l.symbols[name] = known
		}
		if !known {
			return false
		}
	}
	return true
}

func (l *library) Shutdown() error {
	if !l.has("nvmlShutdown") {
		return ErrNoDriver
	}
	ret := l.nvml.Shutdown()
	l.nvml = nil
	return failure(ret)
}

func (l *library) Version() (string, error) {
	if !l.has("nvmlSystemGetDriverVersion") {
		return "", ErrNotSupported
	}
	v, ret := l.nvml.SystemGetDriverVersion()
	return v, failure(ret)
}

func (l *library) Count() (int, error) {
	if !l.has("nvmlDeviceGetCount") {
		return 0, ErrNotSupported
	}
	n, ret := l.nvml.DeviceGetCount()
	return n, failure(ret)
}

func (l *library) Device(index int) (Device, error) {
	if !l.has("nvmlDeviceGetHandleByIndex") {
		return nil, ErrNotSupported
	}
	d, ret := l.nvml.DeviceGetHandleByIndex(index)
	if err := failure(ret); err != nil {
		return nil, err
	}
	return device{l, d}, nil
}

// device is comparable: two of the same handle are equal.
type device struct {
	lib *library
	dev nvml.Device
}

func (d device) UUID() (string, error) {
	if !d.lib.has("nvmlDeviceGetUUID") {
		return "", ErrNotSupported
	}
	v, ret := d.dev.GetUUID()
	return v, failure(ret)
}

func (d device) Name() (string, error) {
	if !d.lib.has("nvmlDeviceGetName") {
		return "", ErrNotSupported
	}
	v, ret := d.dev.GetName()
	return v, failure(ret)
}

func (d device) Memory() (total, used uint64, err error) {
	// The second version does not count what the driver keeps for itself as used.
	if d.lib.has("nvmlDeviceGetMemoryInfo_v2") {
		if v, ret := d.dev.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
			return v.Total, v.Used, nil
		}
	}
	if !d.lib.has("nvmlDeviceGetMemoryInfo") {
		return 0, 0, ErrNotSupported
	}
	v, ret := d.dev.GetMemoryInfo()
	return v.Total, v.Used, failure(ret)
}

func (d device) PCIBusID() (string, error) {
	if !d.lib.has("nvmlDeviceGetPciInfo_v2") && !d.lib.has("nvmlDeviceGetPciInfo_v3") {
		return "", ErrNotSupported
	}
	v, ret := d.dev.GetPciInfo()
	return text(v.BusId[:]), failure(ret)
}

func (d device) NUMANode() (int, error) {
	const (
		nodes = 1024
		bits  = 64
		scope = nvml.AFFINITY_SCOPE_NODE
	)
	if !d.lib.has("nvmlDeviceGetMemoryAffinity") {
		return 0, ErrNotSupported
	}
	set, ret := d.dev.GetMemoryAffinity(nodes, scope)
	if err := failure(ret); err != nil {
		return 0, err
	}
	for i, word := range set {
		for b := range bits {
			if word&(1<<b) != 0 {
				return i*bits + b, nil
			}
		}
	}
	return 0, ErrNotFound
}

func (d device) MIG() (bool, error) {
	if !d.lib.has("nvmlDeviceGetMigMode") {
		return false, ErrNotSupported
	}
	now, _, ret := d.dev.GetMigMode()
	return now == nvml.DEVICE_MIG_ENABLE, failure(ret)
}

func (d device) MIGSlots() (int, error) {
	if !d.lib.has("nvmlDeviceGetMaxMigDeviceCount") {
		return 0, ErrNotSupported
	}
	n, ret := d.dev.GetMaxMigDeviceCount()
	return min(n, 64), failure(ret)
}

func (d device) MIGInstance(slot int) (Device, error) {
	if !d.lib.has("nvmlDeviceGetMigDeviceHandleByIndex") {
		return nil, ErrNotSupported
	}
	part, ret := d.dev.GetMigDeviceHandleByIndex(slot)
	if err := failure(ret); err != nil {
		return nil, err
	}
	return device{d.lib, part}, nil
}

func (d device) MIGShape() (int, uint64, error) {
	if !d.lib.has("nvmlDeviceGetAttributes_v2") {
		return 0, 0, ErrNotSupported
	}
	v, ret := d.dev.GetAttributes()
	return int(v.GpuInstanceSliceCount), v.MemorySizeMB, failure(ret)
}

func (d device) Link(link int) (Link, error) {
	if !d.lib.has("nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkRemotePciInfo_v2") {
		return Link{}, ErrNotSupported
	}
	state, ret := d.dev.GetNvLinkState(link)
	switch {
	case ret == nvml.ERROR_INVALID_ARGUMENT:
		// Beyond the last link of this card.
		return Link{}, ErrNotFound
	case ret != nvml.SUCCESS:
		return Link{}, failure(ret)
	case state != nvml.FEATURE_ENABLED:
		return Link{}, ErrNotFound
	}
	if d.lib.has("nvmlDeviceGetNvLinkRemoteDeviceType") {
		if kind, ret := d.dev.GetNvLinkRemoteDeviceType(link); ret == nvml.SUCCESS && kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
			return Link{Switch: true}, nil
		}
	}
	far, ret := d.dev.GetNvLinkRemotePciInfo(link)
	if ret != nvml.SUCCESS {
		// The link is up but its end unknown: that must not look like a card without links.
		return Link{}, ErrNotFound
	}
	return Link{PCIBusID: text(far.BusId[:])}, nil
}

func (d device) Peer(other Device) (bool, error) {
	o, ok := other.(device)
	if !ok || !d.lib.has("nvmlDeviceGetP2PStatus") {
		return false, ErrNotSupported
	}
	status, ret := d.dev.GetP2PStatus(o.dev, nvml.P2P_CAPS_INDEX_NVLINK)
	return status == nvml.P2P_STATUS_OK, failure(ret)
}

func (d device) Utilisation() (uint32, error) {
	if !d.lib.has("nvmlDeviceGetUtilizationRates") {
		return 0, ErrNotSupported
	}
	v, ret := d.dev.GetUtilizationRates()
	return v.Gpu, failure(ret)
}

func (d device) Temperature() (uint32, error) {
	if !d.lib.has("nvmlDeviceGetTemperature") {
		return 0, ErrNotSupported
	}
	v, ret := d.dev.GetTemperature(nvml.TEMPERATURE_GPU)
	return v, failure(ret)
}

func (d device) Power() (uint32, error) {
	if !d.lib.has("nvmlDeviceGetPowerUsage") {
		return 0, ErrNotSupported
	}
	v, ret := d.dev.GetPowerUsage()
	return v, failure(ret)
}

func (d device) ECCUncorrected() (uint64, error) {
	if !d.lib.has("nvmlDeviceGetTotalEccErrors") {
		return 0, ErrNotSupported
	}
	v, ret := d.dev.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	return v, failure(ret)
}

func (d device) RowRemapFailed() (bool, error) {
	if !d.lib.has("nvmlDeviceGetRemappedRows") {
		return false, ErrNotSupported
	}
	_, _, _, failed, ret := d.dev.GetRemappedRows()
	return failed, failure(ret)
}

func (d device) Recovery() (Recovery, error) {
	if !d.lib.has("nvmlDeviceGetFieldValues") {
		return 0, ErrNotSupported
	}
	values := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	if err := failure(d.dev.GetFieldValues(values)); err != nil {
		return 0, err
	}
	// A driver that does not know the field says so beside it.
	if err := failure(nvml.Return(values[0].NvmlReturn)); err != nil {
		return 0, err
	}
	switch nvml.ValueType(values[0].ValueType) {
	case nvml.VALUE_TYPE_UNSIGNED_INT, nvml.VALUE_TYPE_SIGNED_INT:
		return Recovery(binary.NativeEndian.Uint32(values[0].Value[:])), nil
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		return Recovery(binary.NativeEndian.Uint64(values[0].Value[:])), nil
	}
	return 0, ErrNotSupported
}

func (d device) Processes() ([]Process, error) {
	var list []Process
	first := error(ErrNotSupported)
	add := func(graphics bool, found []nvml.ProcessInfo, ret nvml.Return) {
		if err := failure(ret); err != nil {
			return
		}
		first = nil
		for _, p := range found {
			bytes := p.UsedGpuMemory
			if bytes == math.MaxUint64 { // the driver does not tell
				bytes = 0
			}
			list = append(list, Process{PID: p.Pid, Bytes: bytes, Graphics: graphics})
		}
	}
	if d.lib.has("nvmlDeviceGetComputeRunningProcesses") {
		found, ret := d.dev.GetComputeRunningProcesses()
		add(false, found, ret)
	}
	if d.lib.has("nvmlDeviceGetGraphicsRunningProcesses") {
		found, ret := d.dev.GetGraphicsRunningProcesses()
		add(true, found, ret)
	}
	return list, first
}

// failure turns the library's answer into an error; nil for success.
func failure(ret nvml.Return) error {
	switch ret {
	case nvml.SUCCESS:
		return nil
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_DEPRECATED, nvml.ERROR_ARGUMENT_VERSION_MISMATCH:
		return ErrNotSupported
	case nvml.ERROR_NOT_FOUND:
		return ErrNotFound
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_GPU_NOT_FOUND:
		return ErrLost
	case nvml.ERROR_TIMEOUT:
		return ErrTimeout
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return ErrMismatch
	}
	return errors.New("the NVIDIA driver answers: " + strings.ToLower(nvml.ErrorString(ret)))
}

// text reads a C string.
func text(chars []int8) string {
	b := make([]byte, 0, len(chars))
	for _, c := range chars {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
