package handoff

// Order is what a shim is to run. The daemon writes it as itself, where the job's user cannot reach it.
type Order struct {
	// Key is "JOB.ATTEMPT.FENCE".
	Key string
	// FilesDir is the attempt's own directory; it is there and belongs to the job's user.
	FilesDir string
	// Argv is the program and its arguments; the program is looked for on Env's PATH when it has no slash. With Script
	// set, Argv holds only the script's arguments.
	Argv []string
	// Script is written to the attempt's own directory and run by the interpreter that its first line names.
	Script []byte
	// Files are written to the attempt's own directory before the start.
	Files []File
	// Env is the whole environment, "NAME=value".
	Env []string
	// Dir is the working directory.
	Dir string
	// Stdout and Stderr are absolute paths; equal paths share one open file.
	Stdout, Stderr string
	// Truncate empties the output files first.
	Truncate bool
	// Preamble is written to the standard output before the start.
	Preamble string

	// UID, GID and Groups are whom the job runs as. With SwitchUser unset the shim's own must be the same already.
	UID, GID   uint32
	Groups     []uint32
	SwitchUser bool

	// TimeLimitS is in seconds from the start; 0 means none.
	TimeLimitS int64
	// GraceMS is the time between TERM and KILL when the attempt is ended by a limit or leaves processes behind.
	GraceMS int64
	// LeasePath and LeaseEpochMS bind the attempt to the node's lease; an epoch of 0 means that it needs none.
	LeasePath    string
	LeaseEpochMS int64

	Cgroup Cgroup
	// HideDevices are device files that the job must not open; each is covered by DenyPath in the job's own mount
	// namespace.
	HideDevices []string
	DenyPath    string

	// Daemon is for the daemon's own use after a restart; the shim does not look at it.
	Daemon []byte
}

// File is one file of the attempt's own directory.
type File struct {
	// Path is relative, without "..".
	Path    string
	Mode    uint32
	Content []byte
}

// Cgroup says which groups the attempt's processes join and by which they are ended. The zero value means none.
type Cgroup struct {
	// V2Dir is the unified group's directory.
	V2Dir string
	// V1Dirs are directories of the v1 hierarchies; FreezerDir is one of them.
	V1Dirs     []string
	FreezerDir string
	// OOMFile counts the kernel's kills for want of memory, in a line "oom_kill N"; OOMBase is N at the start, for groups
	// are used again.
	OOMFile string
	OOMBase int64
}

const (
	orderKey = iota + 1
	orderArgv
	orderScript
	orderFile
	orderEnv
	orderDir
	orderStdout
	orderStderr
	orderTruncate
	orderUID
	orderGID
	orderGroup
	orderSwitchUser
	orderTimeLimit
	orderGrace
	orderLeasePath
	orderLeaseEpoch
	orderV2Dir
	orderV1Dir
	orderFreezerDir
	orderOOMFile
	orderHideDevice
	orderDenyPath
	orderDaemon
	orderPreamble
	orderFilesDir
	orderOOMBase
)

const (
	filePath = iota + 1
	fileMode
	fileContent
)

// Marshal encodes the order.
func (o *Order) Marshal() []byte {
	var f fields
	f.text(orderKey, o.Key)
	f.text(orderFilesDir, o.FilesDir)
	f.texts(orderArgv, o.Argv)
	if o.Script != nil {
		f.bytes(orderScript, o.Script)
	}
	for _, x := range o.Files {
		var g fields
		g.text(filePath, x.Path)
		g.num(fileMode, int64(x.Mode))
		g.bytes(fileContent, x.Content)
		f.bytes(orderFile, g)
	}
	f.texts(orderEnv, o.Env)
	f.text(orderDir, o.Dir)
	f.text(orderStdout, o.Stdout)
	f.text(orderStderr, o.Stderr)
	f.flag(orderTruncate, o.Truncate)
	f.text(orderPreamble, o.Preamble)
	f.num(orderUID, int64(o.UID))
	f.num(orderGID, int64(o.GID))
	for _, g := range o.Groups {
		f.num(orderGroup, int64(g)+1)
	}
	f.flag(orderSwitchUser, o.SwitchUser)
	f.num(orderTimeLimit, o.TimeLimitS)
	f.num(orderGrace, o.GraceMS)
	f.text(orderLeasePath, o.LeasePath)
	f.num(orderLeaseEpoch, o.LeaseEpochMS)
	f.text(orderV2Dir, o.Cgroup.V2Dir)
	f.texts(orderV1Dir, o.Cgroup.V1Dirs)
	f.text(orderFreezerDir, o.Cgroup.FreezerDir)
	f.text(orderOOMFile, o.Cgroup.OOMFile)
	f.num(orderOOMBase, o.Cgroup.OOMBase)
	f.texts(orderHideDevice, o.HideDevices)
	f.text(orderDenyPath, o.DenyPath)
	if o.Daemon != nil {
		f.bytes(orderDaemon, o.Daemon)
	}
	return seal(kindOrder, f)
}

// ParseOrder decodes the order at the start of an attempt's file, and says how many bytes it takes. The result shares
// memory with b.
func ParseOrder(b []byte) (o *Order, size int, err error) {
	p, rest, err := open(kindOrder, b)
	if err != nil {
		return nil, 0, err
	}
	o, err = parseOrder(p)
	return o, len(b) - len(rest), err
}

func parseOrder(p []byte) (*Order, error) {
	o := &Order{}
	var inner error
	err := each(p, func(tag uint64, v []byte) {
		switch tag {
		case orderKey:
			o.Key = string(v)
		case orderArgv:
			o.Argv = append(o.Argv, string(v))
		case orderScript:
			o.Script = v
		case orderFile:
			var x File
			if e := each(v, func(tag uint64, v []byte) {
				switch tag {
				case filePath:
					x.Path = string(v)
				case fileMode:
					x.Mode = uint32(num(v))
				case fileContent:
					x.Content = v
				}
			}); e != nil {
				inner = e
			}
			o.Files = append(o.Files, x)
		case orderEnv:
			o.Env = append(o.Env, string(v))
		case orderDir:
			o.Dir = string(v)
		case orderStdout:
			o.Stdout = string(v)
		case orderStderr:
			o.Stderr = string(v)
		case orderTruncate:
			o.Truncate = num(v) != 0
		case orderFilesDir:
			o.FilesDir = string(v)
		case orderPreamble:
			o.Preamble = string(v)
		case orderUID:
			o.UID = uint32(num(v))
		case orderGID:
			o.GID = uint32(num(v))
		case orderGroup:
			o.Groups = append(o.Groups, uint32(num(v)-1))
		case orderSwitchUser:
			o.SwitchUser = num(v) != 0
		case orderTimeLimit:
			o.TimeLimitS = num(v)
		case orderGrace:
			o.GraceMS = num(v)
		case orderLeasePath:
			o.LeasePath = string(v)
		case orderLeaseEpoch:
			o.LeaseEpochMS = num(v)
		case orderV2Dir:
			o.Cgroup.V2Dir = string(v)
		case orderV1Dir:
			o.Cgroup.V1Dirs = append(o.Cgroup.V1Dirs, string(v))
		case orderFreezerDir:
			o.Cgroup.FreezerDir = string(v)
		case orderOOMFile:
			o.Cgroup.OOMFile = string(v)
		case orderOOMBase:
			o.Cgroup.OOMBase = num(v)
		case orderHideDevice:
			o.HideDevices = append(o.HideDevices, string(v))
		case orderDenyPath:
			o.DenyPath = string(v)
		case orderDaemon:
			o.Daemon = v
		}
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}
