package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Settings as Configure takes them; all are durations such as "2h" or "90m".
const (
	// PrioritySetting is what one level of priority is worth.
	PrioritySetting = "priority_step"
	// SizeSetting is what being small is worth at most.
	SizeSetting = "size_weight"
	// FairShareSetting is what an account without use gains at most.
	FairShareSetting = "fair_share_weight"
	// HysteresisSetting is what a running job gains over a waiting one, where preemption compares them.
	HysteresisSetting = "hysteresis"
	// PartitionSetting and ProjectSetting, followed by a name, are what the jobs of that partition or project gain; negative ones lose.
	PartitionSetting = "partition."
	ProjectSetting   = "project."
)

// Bounds of the settings. With all of them at their largest D is below a year.
const (
	maxPriorityStep = 30 * 24 * time.Hour
	maxWeight       = 14 * 24 * time.Hour
	maxSiteTerms    = 1000
)

// Knows says whether a key is one of this policy's.
func Knows(key string) bool {
	switch key {
	case PrioritySetting, SizeSetting, FairShareSetting, HysteresisSetting:
		return true
	}
	for _, prefix := range []string{PartitionSetting, ProjectSetting} {
		if name, ok := strings.CutPrefix(key, prefix); ok && name != "" {
			return true
		}
	}
	return false
}

// ParseSettings reads weights; what is not set keeps its default. Unknown keys are refused.
func ParseSettings(settings map[string]string) (Params, error) {
	p := Defaults()
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if err := p.set(key, settings[key]); err != nil {
			return Params{}, err
		}
	}
	return p, nil
}

func (p *Params) set(key, text string) (err error) {
	switch key {
	case PrioritySetting:
		p.PriorityMS, err = duration(key, text, 0, maxPriorityStep)
		return err
	case SizeSetting:
		p.SizeMS, err = duration(key, text, 0, maxWeight)
		return err
	case FairShareSetting:
		p.FairShareMS, err = duration(key, text, 0, maxWeight)
		return err
	case HysteresisSetting:
		p.HysteresisMS, err = duration(key, text, 0, maxWeight)
		return err
	}
	for _, site := range []struct {
		prefix string
		terms  *map[string]int64
	}{{PartitionSetting, &p.PartitionMS}, {ProjectSetting, &p.ProjectMS}} {
		name, ok := strings.CutPrefix(key, site.prefix)
		if !ok || name == "" {
			continue
		}
		ms, err := duration(key, text, -maxWeight, maxWeight)
		if err != nil {
			return err
		}
		if *site.terms == nil {
			*site.terms = map[string]int64{}
		}
		if len(*site.terms) >= maxSiteTerms {
			return fmt.Errorf("setting %s: more than %d keys begin with %s; set fewer", key, maxSiteTerms, site.prefix)
		}
		(*site.terms)[name] = ms
		return nil
	}
	return fmt.Errorf("setting %q: unknown; use %s, %s, %s, %s, %sNAME or %sNAME", key, PrioritySetting, SizeSetting, FairShareSetting,
		HysteresisSetting, PartitionSetting, ProjectSetting)
}

func duration(key, text string, least, most time.Duration) (int64, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("setting %s: %q is not a duration from %s to %s; write it like 2h30m", key, text, hours(least), hours(most))
	}
	return d.Milliseconds(), nil
}

func hours(d time.Duration) string { return fmt.Sprintf("%dh", int64(d/time.Hour)) }
