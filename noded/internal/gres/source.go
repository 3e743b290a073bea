package gres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// Source tells a node's GPUs. It may be used by several goroutines.
type Source interface {
	// Inventory lists the GPUs by index. A GPU keeps its index for as long as the source lives. The answer is the caller's.
	// An error means that nothing is known yet; once a GPU was seen, trouble makes it unhealthy instead.
	Inventory(ctx context.Context) ([]*fettlev1.GPU, error)
	// Readings are the newest round; an empty one for declared GPUs. The answer is the caller's.
	Readings(ctx context.Context) (Round, error)
	// Changed has a value when Inventory would answer something else than it did before.
	Changed() <-chan struct{}
	// Run keeps the answers fresh until the context ends, and returns nil then. It is called at most once. Without it every
	// Inventory and Readings asks anew.
	Run(ctx context.Context) error
}

// Round is one look at all GPUs.
type Round struct {
	// Number is the same for the same look, and different for another one; 0 says that there was none.
	Number uint64
	// GPUs are the readings of those that could be read, by index.
	GPUs []*fettlev1.GPUReading
}

// Auto in Config.GRES looks for GPUs, as an empty one does.
const Auto = "auto"

// HelperName is the file name of the program that asks the driver.
const HelperName = "fettle-nvml"

// New picks the source that the configuration asks for: declared GPUs when GRES says which, else those that fettle-nvml
// finds. Where there is no fettle-nvml the node has no GPUs, which is logged.
func New(cfg Config) (Source, error) {
	if s := strings.ToLower(strings.TrimSpace(cfg.GRES)); s != "" && s != Auto {
		return NewDeclared(cfg.Node, cfg.GRES, cfg.MemoryMiB)
	}
	if cfg.Helper == "" {
		cfg.Helper = FindHelper()
	}
	if cfg.Helper == "" {
		cfg.logger().Warn("fettle-nvml is not beside the node daemon: GPUs are not detected", slog.String("remedy", "install it there, or declare GPUs with gres"))
		return NewDeclared(cfg.Node, "none", 0)
	}
	return NewNVML(cfg)
}

// FindHelper looks for fettle-nvml in the directory of the running program and in ../lib/fettle beside it. It answers the
// empty string when it is in neither.
func FindHelper() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	return findHelper(self)
}

func findHelper(program string) string {
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real
	}
	dir := filepath.Dir(program)
	for _, path := range []string{filepath.Join(dir, HelperName), filepath.Join(dir, "..", "lib", "fettle", HelperName)} {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// Declared are GPUs that the administrator says a node has. Nobody looks whether they are there.
type Declared struct {
	gpus    []*fettlev1.GPU
	changed chan struct{}
}

// NewDeclared reads what a node declares, such as "gpu:h100:8" or "none". UUIDs are made from the node's name and the
// index, the same at every start: GPU-declared-gpu1-0. memoryMiB is each GPU's memory; 0 takes that of the type, where it is
// known.
func NewDeclared(node, declared string, memoryMiB int64) (*Declared, error) {
	if node == "" {
		return nil, errors.New("declared GPUs need the node's name")
	}
	want, err := gres.ParseNodeGRES(declared)
	if err != nil {
		return nil, err
	}
	if memoryMiB == 0 {
		memoryMiB = typicalMemoryMiB[want.Type]
	}
	d := &Declared{changed: make(chan struct{})}
	for i := range want.Count {
		d.gpus = append(d.gpus, &fettlev1.GPU{Index: uint32(i), Uuid: declaredUUID(node, i), Type: want.Type, MemoryMib: memoryMiB, NumaNode: -1, Declared: true})
	}
	return d, nil
}

// typicalMemoryMiB is what the driver reports as the memory of a card of a type. Of types that are sold with more than one
// size it is the smallest.
var typicalMemoryMiB = map[string]int64{
	"a10": 23028, "a10g": 23028, "a30": 24576, "a40": 46068, "a100": 40960, "a800": 40960,
	"b200": 183359, "gh200": 97871, "h100": 81559, "h20": 97871, "h200": 143771, "h800": 81559,
	"l4": 23034, "l40": 46068, "l40s": 46068, "p100": 16280, "t4": 15360, "v100": 16384,
	"rtx3090": 24576, "rtx4090": 24564, "rtx5090": 32607,
}

// declaredUUID is of the form that jobs may pin. Names that do not fit the form are told apart by a hash.
func declaredUUID(node string, index int) string {
	const longest = 63
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, node)
	if plain != node || len(plain) > longest {
		h := fnv.New32a()
		_, _ = h.Write([]byte(node))
		plain = fmt.Sprintf("%s-%08x", plain[:min(len(plain), longest)], h.Sum32())
	}
	return fmt.Sprintf("GPU-declared-%s-%d", plain, index)
}

// Inventory lists the declared GPUs.
func (d *Declared) Inventory(context.Context) ([]*fettlev1.GPU, error) { return cloneAll(d.gpus), nil }

// Readings are none: what is only declared cannot be read.
func (d *Declared) Readings(context.Context) (Round, error) { return Round{}, nil }

// Changed never has a value.
func (d *Declared) Changed() <-chan struct{} { return d.changed }

// Run waits for the context to end.
func (d *Declared) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
