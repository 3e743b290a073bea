//go:build cgo

package nvml

import (
	"math"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

// wanted are the events of interest. The driver's own list of what a card supports is laid over it.
const wanted = nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError |
	nvml.EventTypeGpuUnavailableError | nvml.EventTypeGpuRecoveryAction

// Events registers devices with a new event set.
func (l *library) Events(devices []Device) (Events, error) {
	if !l.has("nvmlEventSetCreate", "nvmlEventSetWait", "nvmlEventSetFree", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes") {
		return nil, ErrNotSupported
	}
	set, ret := l.nvml.EventSetCreate()
	if err := failure(ret); err != nil {
		return nil, err
	}
	e := &events{lib: l, set: set}
	for _, other := range devices {
		d, ok := other.(device)
		if !ok {
			continue
		}
		types, ret := d.dev.GetSupportedEventTypes()
		if ret != nvml.SUCCESS || types&wanted == 0 {
			continue
		}
		if d.dev.RegisterEvents(types&wanted, set) == nvml.SUCCESS {
			e.devices = append(e.devices, d)
		}
	}
	if len(e.devices) == 0 {
		_ = e.Close()
		return nil, ErrNotSupported
	}
	return e, nil
}

// events puts an event set behind Events.
type events struct {
	lib     *library
	set     nvml.EventSet
	devices []device
}

func (e *events) Close() error { return failure(e.set.Free()) }

func (e *events) Wait(timeout time.Duration) (Event, error) {
	ms := min(max(timeout.Milliseconds(), 1), math.MaxInt32)
	data, ret := e.set.Wait(uint32(ms))
	if err := failure(ret); err != nil {
		return Event{}, err
	}
	var ev Event
	for _, d := range e.devices {
		if d.dev == data.Device {
			ev.Device = d
		}
	}
	switch data.EventType {
	case nvml.EventTypeXidCriticalError:
		ev.Kind = report.EventXID
		ev.XID = uint32(min(data.EventData, 1<<16))
	case nvml.EventTypeDoubleBitEccError:
		ev.Kind = report.EventECC
	case nvml.EventTypeGpuUnavailableError:
		ev.Kind = report.EventUnavailable
	case nvml.EventTypeGpuRecoveryAction:
		ev.Kind = report.EventRecovery
	}
	return ev, nil
}
