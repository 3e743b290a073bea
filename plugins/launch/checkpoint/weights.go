package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
)

const (
	maxIndex  = 64 << 20
	maxHeader = 100 << 20
)

// checkWeights wants an adapter, a whole model, all the shards that an index lists, or a sharded state.
func checkWeights(dir string, names map[string]bool, sharded bool) error {
	for _, index := range []string{"model.safetensors.index.json", "pytorch_model.bin.index.json"} {
		if names[index] {
			return checkIndex(dir, index, names)
		}
	}
	for _, file := range []string{"adapter_model.safetensors", "model.safetensors"} {
		if names[file] {
			return checkSafetensors(filepath.Join(dir, file))
		}
	}
	for _, file := range []string{"adapter_model.bin", "pytorch_model.bin"} {
		if names[file] {
			return checkTorch(filepath.Join(dir, file))
		}
	}
	if sharded || len(matching(names, fsdpModel)) > 0 {
		return nil
	}
	return errors.New("the weights are missing")
}

func checkIndex(dir, index string, names map[string]bool) error {
	data, err := bounded.ReadFile(filepath.Join(dir, index), maxIndex)
	if err != nil {
		return fmt.Errorf("%s: %w", index, err)
	}
	var listing struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &listing); err != nil {
		return fmt.Errorf("%s: not valid JSON: %w", index, err)
	}
	shards := map[string]bool{}
	for _, shard := range listing.WeightMap {
		shards[shard] = true
	}
	if len(shards) == 0 {
		return fmt.Errorf("%s lists no weights", index)
	}
	sorted := make([]string, 0, len(shards))
	for shard := range shards {
		sorted = append(sorted, shard)
	}
	slices.Sort(sorted)
	for _, shard := range sorted {
		if !names[shard] {
			return fmt.Errorf("%q of %s is missing", shard, index)
		}
		check := checkTorch
		if strings.HasSuffix(shard, ".safetensors") {
			check = checkSafetensors
		}
		if err := check(filepath.Join(dir, shard)); err != nil {
			return err
		}
	}
	return nil
}

// checkSafetensors compares the file's size with what its header says it holds.
func checkSafetensors(path string) error {
	file := filepath.Base(path)
	f, info, err := bounded.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	var size [8]byte
	if _, err := io.ReadFull(f, size[:]); err != nil {
		return fmt.Errorf("%s is cut short", file)
	}
	length := binary.LittleEndian.Uint64(size[:])
	if length > maxHeader || int64(length) > info.Size()-8 {
		return fmt.Errorf("%s is cut short", file)
	}
	header := make([]byte, length)
	if _, err := io.ReadFull(f, header); err != nil {
		return fmt.Errorf("%s is cut short", file)
	}
	var tensors map[string]json.RawMessage
	if err := json.Unmarshal(header, &tensors); err != nil {
		return fmt.Errorf("%s has a broken header", file)
	}
	var end int64
	for name, raw := range tensors {
		if name == "__metadata__" {
			continue
		}
		var t struct {
			Offsets [2]int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(raw, &t); err != nil || t.Offsets[0] < 0 || t.Offsets[1] < t.Offsets[0] {
			return fmt.Errorf("%s has a broken header", file)
		}
		end = max(end, t.Offsets[1])
	}
	if want := 8 + int64(length) + end; info.Size() != want {
		return fmt.Errorf("%s has %d bytes of %d", file, info.Size(), want)
	}
	return nil
}

// checkTorch wants a file of torch.save to have its end: a zip archive keeps its directory there. The older format has no
// such mark and only must not be empty.
func checkTorch(path string) error {
	file := filepath.Base(path)
	head, size, err := bounded.Head(path, 4)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if size == 0 {
		return fmt.Errorf("%s is empty", file)
	}
	if !bytes.Equal(head, []byte("PK\x03\x04")) {
		return nil
	}
	tail, _, err := bounded.Tail(path, 22+64<<10)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if bytes.LastIndex(tail, []byte("PK\x05\x06")) < 0 {
		return fmt.Errorf("%s is cut short", file)
	}
	return nil
}
