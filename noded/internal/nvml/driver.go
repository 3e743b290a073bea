package nvml

import (
	"errors"
	"time"
)

// Errors that a Driver tells apart. All others are opaque.
var (
	// ErrNoDriver means that the library or the driver is absent.
	ErrNoDriver = errors.New("no NVIDIA driver")
	// ErrNotSupported means that this GPU, library or driver does not offer what was asked.
	ErrNotSupported = errors.New("not supported")
	// ErrNotFound means that a numbered thing, such as a MIG instance or a link, is not there.
	ErrNotFound = errors.New("not found")
	// ErrLost means that the GPU fell off the bus or must be reset before it can be asked anything.
	ErrLost = errors.New("the GPU is lost or needs a reset")
	// ErrTimeout means that nothing happened in the time given.
	ErrTimeout = errors.New("timed out")
	// ErrMismatch means that the library and the kernel's driver are of different versions.
	ErrMismatch = errors.New("the NVIDIA library and the kernel's driver differ in version: reboot after a driver upgrade")
	// ErrNoCgo means that this program was built without the means to open the library.
	ErrNoCgo = errors.New("built without cgo: build with CGO_ENABLED=1 and a C compiler, or declare the node's GPUs with gres")
)

// Driver is the management library. Only Init may be called before Init has succeeded, and none but Init after Shutdown.
// It is used by one goroutine at a time.
type Driver interface {
	// Init answers ErrNoDriver when there is nothing to open.
	Init() error
	Shutdown() error
	Version() (string, error)
	// Count is the number of whole GPUs.
	Count() (int, error)
	// Device opens the GPU with this index of the driver's own order.
	Device(index int) (Device, error)
	// Events watches devices. Those that have no events are left out; ErrNotSupported when none is left.
	Events(devices []Device) (Events, error)
}

// Device is a GPU or a MIG instance.
type Device interface {
	UUID() (string, error)
	Name() (string, error)
	// Memory answers bytes.
	Memory() (total, used uint64, err error)
	// PCIBusID is in the driver's own spelling; empty when it gave numbers of no meaning.
	PCIBusID() (string, error)
	// NUMANode is that of the memory closest to the GPU.
	NUMANode() (int, error)
	// MIG tells whether the GPU is divided now.
	MIG() (bool, error)
	// MIGSlots is the number of instances that could exist; MIGInstance answers ErrNotFound for a slot that is empty.
	MIGSlots() (int, error)
	MIGInstance(slot int) (Device, error)
	// MIGShape is an instance's share of its GPU.
	MIGShape() (slices int, memoryMiB uint64, err error)
	// Link answers ErrNotFound for a link that is not there or not up.
	Link(link int) (Link, error)
	// Peer tells whether the driver lets two GPUs speak over NVLink.
	Peer(other Device) (bool, error)
	// Utilisation is the share of time in which something ran, in percent.
	Utilisation() (uint32, error)
	// Temperature is in degrees Celsius, Power in milliwatts.
	Temperature() (uint32, error)
	Power() (uint32, error)
	// ECCUncorrected counts since the driver loaded or the GPU was reset.
	ECCUncorrected() (uint64, error)
	// RowRemapFailed tells that broken memory could not be replaced by spare memory.
	RowRemapFailed() (bool, error)
	Recovery() (Recovery, error)
	Processes() ([]Process, error)
}

// MaxLinks is the number of links to ask about on one GPU.
const MaxLinks = 36

// Link is the far end of an NVLink that is up.
type Link struct {
	// Switch is true when a switch is at the far end.
	Switch bool
	// PCIBusID is the GPU's at the far end, in the driver's own spelling.
	PCIBusID string
}

// Process is a process that uses a GPU.
type Process struct {
	PID uint32
	// Bytes is 0 when the driver does not tell.
	Bytes uint64
	// Graphics says that it draws. One that computes too is listed twice.
	Graphics bool
}

// Recovery is what the driver wants to be done about a GPU.
type Recovery int

// Recoveries, numbered as the driver does.
const (
	RecoveryNone          Recovery = 0
	RecoveryReset         Recovery = 1
	RecoveryReboot        Recovery = 2
	RecoveryDrainP2P      Recovery = 3
	RecoveryDrainAndReset Recovery = 4
	RecoveryIMEX          Recovery = 5
	RecoveryBusReset      Recovery = 6
	RecoverySystemReboot  Recovery = 7
)

// Events is a queue of what happens to some devices.
type Events interface {
	// Wait answers ErrTimeout when nothing happened.
	Wait(timeout time.Duration) (Event, error)
	Close() error
}

// Event is one thing that happened. Kind is one of report's event kinds, or empty for one of no interest.
type Event struct {
	// Device is one of those that were watched; nil when the driver named none of them.
	Device Device
	Kind   string
	XID    uint32
}
