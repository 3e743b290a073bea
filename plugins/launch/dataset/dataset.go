// Package dataset looks at training data: what kind of file it is, in which of the trainer's formats its records are, and
// which entry of dataset_info.json describes it. Reads are bounded, whatever the size of the data.
package dataset

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
)

const (
	// sniffBytes are read from the start of a file to find its first records.
	sniffBytes = 4 << 20
	// footerBytes are read from the end of a columnar file.
	footerBytes = 1 << 20
	// maxFiles are looked at in a directory of data.
	maxFiles = 10_000
)

// kinds are the file types that the trainer loads, by extension.
var kinds = map[string]string{"arrow": "arrow", "csv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "txt": "text"}

// Extensions lists the file types that the trainer loads, for messages.
const Extensions = ".json, .jsonl, .csv, .parquet, .arrow or .txt"

// Refusal says why data cannot be trained on and what to do.
type Refusal struct{ Problem, Remedy string }

func (r *Refusal) Error() string { return r.Problem + "; " + r.Remedy }

// ErrUnseen is wrapped by errors that only say that this process may not look, not that anything is wrong.
var ErrUnseen = errors.New("cannot be looked at from here")

// Info describes one data file or directory.
type Info struct {
	Path string
	// Columns are the names that the first record holds, sorted; empty for plain text.
	Columns []string
	// Format is the trainer's name for the layout, "alpaca" or "sharegpt".
	Format string
	// Pairs says that records hold a chosen and a rejected answer, Labels that they hold a verdict (KTO), PlainText that
	// there is nothing but text to go on with.
	Pairs, Labels, PlainText bool
	// Media says that records point to images, videos or sounds.
	Media bool

	entry entry
}

// Stages answers the training stages that the data is good for.
func (i *Info) Stages() []string {
	switch {
	case i.Pairs:
		return []string{"dpo", "rm"}
	case i.Labels:
		return []string{"kto", "sft"}
	case i.PlainText:
		return []string{"pt"}
	}
	return []string{"sft", "pt", "ppo"}
}

// Inspect looks at a file or a directory of files of one kind. The error is a *Refusal when the data cannot be trained
// on, and wraps ErrUnseen when it could not be looked at.
func Inspect(path string) (*Info, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return nil, pathError(err)
	}
	file := path
	if stat.IsDir() {
		if file, err = oneOf(path); err != nil {
			return nil, err
		}
	} else if !stat.Mode().IsRegular() {
		return nil, &Refusal{"is neither a file nor a directory", "give a data file"}
	}
	kind, err := kindOf(file)
	if err != nil {
		return nil, err
	}
	info, err := inspectFile(file, kind)
	if err != nil {
		return nil, err
	}
	info.Path = path
	return info, nil
}

func pathError(err error) error {
	if bounded.Missing(err) {
		return &Refusal{"does not exist", "give the path of a data file, relative to the config or absolute"}
	}
	if errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ELOOP) {
		return &Refusal{"is not a usable path", "give the path of a data file"}
	}
	return fmt.Errorf("%w: %w", ErrUnseen, err)
}

// kindOf judges by the extension, as the trainer does.
func kindOf(file string) (string, error) {
	ext := strings.TrimPrefix(filepath.Ext(file), ".")
	if kind, ok := kinds[ext]; ok {
		return kind, nil
	}
	if _, ok := kinds[strings.ToLower(ext)]; ok {
		return "", &Refusal{"has the file type ." + ext, "write it in lower case"}
	}
	if ext == "gz" || ext == "zst" || ext == "xz" || ext == "bz2" || ext == "zip" {
		return "", &Refusal{"is compressed", "unpack it"}
	}
	if ext == "" {
		return "", &Refusal{"has no file type", "name it " + Extensions}
	}
	return "", &Refusal{fmt.Sprintf("has the file type %q", "."+clip(ext)), "convert it to " + Extensions}
}

// oneOf answers the first file of a directory whose files must all be of one kind.
func oneOf(dir string) (string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", pathError(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", pathError(err)
	}
	if len(names) == 0 {
		return "", &Refusal{"is an empty directory", "put data files into it"}
	}
	if len(names) > maxFiles {
		return "", &Refusal{fmt.Sprintf("holds more than %d files", maxFiles), "merge them"}
	}
	slices.Sort(names)
	first, err := kindOf(names[0])
	if err != nil {
		return "", &Refusal{fmt.Sprintf("holds %q, which is no data", clip(names[0])), "keep only " + Extensions + " files in it"}
	}
	for _, name := range names[1:] {
		if kind, err := kindOf(name); err != nil || kind != first {
			return "", &Refusal{fmt.Sprintf("holds files of several types, %q and %q", clip(names[0]), clip(name)), "keep files of one type in it"}
		}
	}
	return filepath.Join(dir, names[0]), nil
}

func inspectFile(file, kind string) (*Info, error) {
	switch kind {
	case "parquet", "arrow":
		return inspectColumnar(file, kind)
	}
	head, size, err := bounded.Head(file, sniffBytes)
	if err != nil {
		if errors.Is(err, bounded.ErrNotRegular) {
			return nil, &Refusal{"is neither a file nor a directory", "give a data file"}
		}
		return nil, pathError(err)
	}
	if size == 0 || len(strings.TrimSpace(string(head[:min(len(head), 4096)]))) == 0 && size <= 4096 {
		return nil, &Refusal{"is empty", "put records into it"}
	}
	switch kind {
	case "text":
		return describe(nil, nil)
	case "csv":
		columns, err := csvColumns(head)
		if err != nil {
			return nil, err
		}
		return describe(columns, nil)
	}
	record, err := firstRecord(head, size > int64(len(head)))
	if err != nil {
		return nil, err
	}
	return describe(columnsOf(record), record)
}

func inspectColumnar(file, kind string) (*Info, error) {
	var part []byte
	var size int64
	var err error
	if kind == "parquet" {
		part, size, err = bounded.Tail(file, footerBytes)
	} else {
		part, size, err = bounded.Head(file, footerBytes)
	}
	if err != nil {
		return nil, pathError(err)
	}
	if kind == "parquet" && (size < 12 || string(part[len(part)-4:]) != "PAR1") {
		return nil, &Refusal{"is not a parquet file", "check that it was written to its end"}
	}
	return describe(columnarNames(part), nil)
}

// Exists answers nil when path is a file or directory, a *Refusal when it is not there, and ErrUnseen when that cannot be told.
func Exists(path string) error {
	_, err := os.Stat(path)
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w", ErrUnseen, err)
	}
	return pathError(err)
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
