package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
)

const maxInfo = 4 << 20

// Named answers what is wrong with datasets that are looked up by name in a directory's dataset_info.json: a *Refusal, an
// error that wraps ErrUnseen, or nil. suggest answers the likeliest of several names for one that is not there.
func Named(dir string, wanted []string, suggest func(word string, candidates []string) string) error {
	data, err := bounded.ReadFile(filepath.Join(dir, InfoName), maxInfo)
	switch {
	case bounded.Missing(err):
		return &Refusal{fmt.Sprintf("is looked up in %s, which is not there", filepath.Join(dir, InfoName)), "set dataset_dir, or use data_path: FILE"}
	case errors.Is(err, bounded.ErrTooLarge), errors.Is(err, bounded.ErrNotRegular):
		return &Refusal{fmt.Sprintf("is looked up in %s, which cannot be read", filepath.Join(dir, InfoName)), "set dataset_dir, or use data_path: FILE"}
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnseen, err)
	}
	var listing map[string]struct {
		FileName *string `json:"file_name"`
		HF       *string `json:"hf_hub_url"`
		MS       *string `json:"ms_hub_url"`
		OM       *string `json:"om_hub_url"`
		Script   *string `json:"script_url"`
		Cloud    *string `json:"cloud_file_name"`
	}
	if err := json.Unmarshal(data, &listing); err != nil {
		return &Refusal{fmt.Sprintf("is looked up in %s, which is not valid JSON", filepath.Join(dir, InfoName)), "check its quotes, commas and brackets"}
	}
	for _, name := range wanted {
		e, ok := listing[name]
		if !ok {
			remedy := "add it there, or use data_path: FILE"
			if near := suggest(name, slices.Sorted(maps.Keys(listing))); near != "" {
				remedy = fmt.Sprintf("did you mean %s?", clip(near))
			}
			return &Refusal{fmt.Sprintf("%q is not listed in %s", clip(name), filepath.Join(dir, InfoName)), remedy}
		}
		if e.HF != nil || e.MS != nil || e.OM != nil || e.Script != nil || e.Cloud != nil {
			continue
		}
		if e.FileName == nil {
			return &Refusal{fmt.Sprintf("%q has no file_name in %s", clip(name), filepath.Join(dir, InfoName)), "add one"}
		}
		file := *e.FileName
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		err := Exists(file)
		var refusal *Refusal
		if errors.As(err, &refusal) {
			return &Refusal{fmt.Sprintf("%q needs %s, which %s", clip(name), file, refusal.Problem), "put it there, or mend " + InfoName}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Remote answers whether a named dataset of the directory comes from a hub; false when that cannot be told.
func Remote(dir string, wanted []string) bool {
	data, err := bounded.ReadFile(filepath.Join(dir, InfoName), maxInfo)
	if err != nil {
		return true
	}
	var listing map[string]map[string]any
	if json.Unmarshal(data, &listing) != nil {
		return true
	}
	for _, name := range wanted {
		if _, local := listing[name]["file_name"]; !local || len(listing[name]) == 0 {
			return true
		}
		for _, key := range []string{"hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"} {
			if _, hub := listing[name][key]; hub {
				return true
			}
		}
	}
	return false
}
