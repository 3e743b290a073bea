// Package checkpoint tells whole checkpoints of HF's Trainer from torn ones.
//
// The trainer writes a checkpoint in place, without a marker for its end, and picks the newest by its number when it
// resumes: from a torn one it fails or, worse, goes on with a fresh optimizer. So fettle picks, and says by path.
package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
)

const (
	// maxEntries are read of a directory.
	maxEntries = 100_000
	// maxState bounds trainer_state.json, which grows by a line per logged step.
	maxState = 64 << 20
	// MaxListed is how many checkpoints List answers.
	MaxListed = 1000
)

// Info is one checkpoint.
type Info struct {
	// Path is the absolute or relative path as the output directory was given.
	Path string
	Step int64
	// Problem says why it must not be resumed from; empty when it is complete.
	Problem string
}

// Complete answers whether training can go on from it.
func (i Info) Complete() bool { return i.Problem == "" }

var name = regexp.MustCompile(`^checkpoint-([0-9]{1,12})$`)

// List answers the checkpoints in an output directory, newest first. No directory means no checkpoints.
func List(outputDir string) ([]Info, error) {
	names, err := readNames(outputDir)
	if bounded.Missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	var found []Info
	for n := range names {
		m := name.FindStringSubmatch(n)
		if m == nil {
			continue
		}
		step, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || strconv.FormatInt(step, 10) != m[1] {
			continue
		}
		found = append(found, Info{Path: filepath.Join(outputDir, n), Step: step})
	}
	slices.SortFunc(found, func(a, b Info) int { return cmp.Compare(b.Step, a.Step) })
	found = found[:min(len(found), MaxListed)]
	for i := range found {
		if err := Check(found[i].Path, found[i].Step); err != nil {
			found[i].Problem = err.Error()
		}
	}
	return found, nil
}

// Latest answers the newest complete checkpoint and the torn ones that are newer than it.
func Latest(outputDir string) (latest *Info, torn []Info, err error) {
	all, err := List(outputDir)
	if err != nil {
		return nil, nil, err
	}
	for i := range all {
		if all[i].Complete() {
			return &all[i], torn, nil
		}
		torn = append(torn, all[i])
	}
	return nil, torn, nil
}

func readNames(dir string) (map[string]bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := d.Readdirnames(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	names := make(map[string]bool, len(list))
	for _, n := range list {
		names[n] = true
	}
	return names, nil
}

// Check answers what a checkpoint of a step lacks, nil when it is whole.
func Check(dir string, step int64) error {
	names, err := readNames(dir)
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	if names["checkpoint-is-incomplete.txt"] {
		return errors.New("the trainer was stopped while it wrote it (checkpoint-is-incomplete.txt)")
	}
	state, err := ReadState(filepath.Join(dir, "trainer_state.json"))
	switch {
	case bounded.Missing(err):
		return errors.New("trainer_state.json, which is written last, is missing")
	case err != nil:
		return fmt.Errorf("trainer_state.json: %w", err)
	case state.Step != step:
		return fmt.Errorf("trainer_state.json is at step %d, not %d", state.Step, step)
	}
	sharded := matching(names, globalStep)
	if err := checkWeights(dir, names, len(sharded) > 0); err != nil {
		return err
	}
	if err := checkOptimizer(dir, names, len(sharded) > 0); err != nil {
		return err
	}
	return checkRandom(dir, names)
}

var (
	globalStep = regexp.MustCompile(`^global_step[0-9]+$`)
	fsdpModel  = regexp.MustCompile(`^pytorch_model_fsdp(_[0-9]+|\.bin)?$`)
	optimShard = regexp.MustCompile(`^optimizer_[0-9]+$`)
	rankState  = regexp.MustCompile(`^rng_state_([0-9]{1,6})\.pth$`)
)

func matching(names map[string]bool, re *regexp.Regexp) []string {
	var found []string
	for n := range names {
		if re.MatchString(n) {
			found = append(found, n)
		}
	}
	slices.Sort(found)
	return found
}

func checkOptimizer(dir string, names map[string]bool, sharded bool) error {
	switch {
	case names["optimizer.pt"]:
		if err := checkTorch(filepath.Join(dir, "optimizer.pt")); err != nil {
			return err
		}
	case names["optimizer.bin"]:
		if err := checkTorch(filepath.Join(dir, "optimizer.bin")); err != nil {
			return err
		}
	case sharded || len(matching(names, optimShard)) > 0:
	default:
		return errors.New("the optimizer's state is missing")
	}
	if !names["scheduler.pt"] {
		if sharded {
			return nil
		}
		return errors.New("scheduler.pt is missing")
	}
	return checkTorch(filepath.Join(dir, "scheduler.pt"))
}

// checkRandom wants the random state of one process, or of every rank up to the highest that left one.
func checkRandom(dir string, names map[string]bool) error {
	if names["rng_state.pth"] {
		return checkTorch(filepath.Join(dir, "rng_state.pth"))
	}
	highest := -1
	for _, n := range matching(names, rankState) {
		rank, _ := strconv.Atoi(rankState.FindStringSubmatch(n)[1])
		highest = max(highest, rank)
	}
	if highest < 0 {
		return errors.New("rng_state.pth is missing")
	}
	for rank := range highest + 1 {
		n := fmt.Sprintf("rng_state_%d.pth", rank)
		if !names[n] {
			return fmt.Errorf("%s is missing, though there is one of rank %d", n, highest)
		}
		if err := checkTorch(filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return nil
}

// State is what trainer_state.json says of a run.
type State struct {
	Step     int64 `json:"global_step"`
	MaxSteps int64 `json:"max_steps"`
	// Epochs are those that the run was to have.
	Epochs float64 `json:"num_train_epochs"`
}

// ReadState reads a trainer_state.json.
func ReadState(path string) (State, error) {
	data, err := bounded.ReadFile(path, maxState)
	if err != nil {
		return State{}, err
	}
	return ParseState(data)
}

// noNumber are values that Python writes and JSON does not know, a loss for example.
var noNumber = regexp.MustCompile(`:\s*(NaN|-?Infinity)\b`)

// ParseState reads the bytes of a trainer_state.json.
func ParseState(data []byte) (State, error) {
	var raw struct {
		Step     *int64  `json:"global_step"`
		MaxSteps int64   `json:"max_steps"`
		Epochs   float64 `json:"num_train_epochs"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		if json.Unmarshal(noNumber.ReplaceAll(data, []byte(": null")), &raw) != nil {
			return State{}, fmt.Errorf("not valid JSON: %w", err)
		}
	}
	if raw.Step == nil {
		return State{}, errors.New("has no global_step")
	}
	return State{Step: *raw.Step, MaxSteps: raw.MaxSteps, Epochs: raw.Epochs}, nil
}
