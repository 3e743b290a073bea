// Package report is the language between fettle-nvml, which asks the NVIDIA driver, and the node daemon, which does not
// trust it: JSON messages, each of which carries one inventory, one round of readings, or one event.
//
// The reading side is strict. A message of another version, with a field it does not know, beyond a limit, or with a value
// that no GPU can have is refused whole.
package report

// Version is the version of the messages. Both sides come from one release, so there is no negotiation: another version
// means that only one of the two files was replaced.
const Version = 1

// Limits on a message.
const (
	// MaxMessage bounds one message in bytes.
	MaxMessage = 1 << 20
	// MaxProcesses bounds the processes listed for one GPU.
	MaxProcesses = 256
	// MaxProblems bounds an inventory's problems, MaxText each line of text in bytes.
	MaxProblems = 64
	MaxText     = 200
	// MaxMemoryMiB bounds a memory size: 64 TiB.
	MaxMemoryMiB = 64 << 20
)

// MIG states of a GPU.
const (
	MIGUnknown  = ""
	MIGDisabled = "disabled"
	MIGEnabled  = "enabled"
	// MIGInstance marks a slice of a GPU rather than a GPU.
	MIGInstance = "instance"
)

// Kinds of event.
const (
	// EventXID is an error that the driver numbers.
	EventXID = "xid"
	// EventECC is a memory error that could not be corrected.
	EventECC = "ecc"
	// EventUnavailable says that the GPU can no longer be used.
	EventUnavailable = "unavailable"
	// EventRecovery says that what the driver wants done about the GPU has changed.
	EventRecovery = "recovery"
)

// Message is one JSON document or line. Exactly one of the pointers is set.
type Message struct {
	Version   int        `json:"version"`
	Inventory *Inventory `json:"inventory,omitempty"`
	Readings  *Readings  `json:"readings,omitempty"`
	Event     *Event     `json:"event,omitempty"`
}

// Inventory is every GPU that the driver knows of.
type Inventory struct {
	// Driver is the driver's version; empty when there is no driver.
	Driver string `json:"driver,omitempty"`
	GPUs   []GPU  `json:"gpus"`
	// Note says why there are no GPUs.
	Note string `json:"note,omitempty"`
	// Problems are lines about GPUs that could not be listed, and about what was left out.
	Problems []string `json:"problems,omitempty"`
}

// GPU is a whole card or, with MIG "instance", a slice of one.
type GPU struct {
	Index uint32 `json:"index"`
	UUID  string `json:"uuid"`
	Model string `json:"model,omitempty"`
	// Type is the model in the short form that jobs ask for.
	Type      string `json:"type"`
	MemoryMiB int64  `json:"memory_mib"`
	// PCIBusID is as in sysfs: 0000:1b:00.0.
	PCIBusID string `json:"pci_bus_id,omitempty"`
	// Links are the other GPUs that NVLink reaches, directly or through a switch.
	Links []Link `json:"links,omitempty"`
	// NUMANode is -1 when unknown.
	NUMANode int32  `json:"numa_node"`
	MIG      string `json:"mig,omitempty"`
	// Parent is the UUID of the card that an instance is part of.
	Parent string `json:"parent,omitempty"`
	// Fault says why the GPU must not be used; empty when nothing speaks against it.
	Fault string `json:"fault,omitempty"`
}

// Link is the number of NVLinks to the GPU with index Peer.
type Link struct {
	Peer  uint32 `json:"peer"`
	Links uint32 `json:"links"`
}

// Readings are one round over all GPUs.
type Readings struct {
	GPUs []Reading `json:"gpus"`
}

// Reading is one GPU's present use. Nil means that it could not be read.
type Reading struct {
	UUID           string  `json:"uuid"`
	MemoryUsedMiB  *int64  `json:"memory_used_mib,omitempty"`
	UtilisationPct *uint32 `json:"utilisation_pct,omitempty"`
	TemperatureC   *int32  `json:"temperature_c,omitempty"`
	PowerW         *uint32 `json:"power_w,omitempty"`
	// ECCUncorrected counts since the driver loaded or the GPU was reset.
	ECCUncorrected *uint64   `json:"ecc_uncorrected,omitempty"`
	Processes      []Process `json:"processes,omitempty"`
}

// Process is a process that uses a GPU. PID is as the driver sees it. MemoryMiB is 0 when the driver does not tell.
type Process struct {
	PID       uint32 `json:"pid"`
	MemoryMiB int64  `json:"memory_mib"`
	// Graphics is set for one that draws and does not compute.
	Graphics bool `json:"graphics,omitempty"`
}

// Event is something that happened to a GPU.
type Event struct {
	// UUID is empty when the driver did not say which GPU.
	UUID string `json:"uuid,omitempty"`
	Kind string `json:"kind"`
	// XID is the error's number with EventXID, else 0.
	XID uint32 `json:"xid,omitempty"`
}
