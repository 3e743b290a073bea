package gres

import (
	"strconv"
	"strings"
)

// Limits on device pins.
const (
	// MaxDeviceIndex is the highest index of a GPU on a node.
	MaxDeviceIndex = MaxGPUsPerNode - 1
	// MaxUUIDLen bounds a GPU UUID's length in bytes.
	MaxUUIDLen = 96
)

const deviceRemedy = "use cuda:0, cuda:0,1 or a GPU's UUID (GPU-...)"

// Devices pins a job to certain GPUs of its node: by index or by UUID, never both.
type Devices struct {
	// Indexes are in the order given, each once.
	Indexes []int
	// UUIDs are as given, each once: "GPU-..." for whole GPUs, "MIG-..." for slices.
	UUIDs []string
}

// Len is the number of devices pinned.
func (d Devices) Len() int { return len(d.Indexes) + len(d.UUIDs) }

// String prints d as ParseDevices reads it: "cuda:0,1" or "GPU-a,GPU-b"; empty when nothing is pinned.
func (d Devices) String() string {
	if len(d.UUIDs) > 0 {
		return strings.Join(d.UUIDs, ",")
	}
	if len(d.Indexes) == 0 {
		return ""
	}
	parts := make([]string, len(d.Indexes))
	for i, n := range d.Indexes {
		parts[i] = strconv.Itoa(n)
	}
	return "cuda:" + strings.Join(parts, ",")
}

// ParseDevices reads device pins: "cuda:0", "cuda:0,1", "0,1", "0-3", "gpu:2", "cuda:0,cuda:1", or UUIDs such as
// "GPU-5a1c...". Indexes are 0 to MaxDeviceIndex. At most MaxGPUsPerNode devices, none of them twice.
func ParseDevices(s string) (Devices, error) {
	var d Devices
	refuse := func(problem string) (Devices, error) {
		return Devices{}, &Error{"device", s, problem, deviceRemedy}
	}
	t := strings.TrimSpace(s)
	switch strings.ToLower(t) {
	case "":
		return refuse("is empty")
	case "cpu":
		return Devices{}, &Error{"device", s, "pins no GPU", "leave the device out and ask for no GPUs"}
	case "cuda", "gpu", "auto":
		return Devices{}, &Error{"device", s, "names no index", "leave the device out for any GPU, or " + deviceRemedy}
	}
	seenIndex := make(map[int]bool)
	seenUUID := make(map[string]bool)
	for item := range strings.SplitSeq(t, ",") {
		item = strings.TrimSpace(item)
		switch {
		case item == "":
			return refuse("has an empty item")
		case isUUID(item):
			if problem := uuidProblem(item); problem != "" {
				return refuse(problem)
			}
			if seenUUID[item] {
				return refuse("names " + Quote(item) + " twice")
			}
			seenUUID[item] = true
			d.UUIDs = append(d.UUIDs, item)
		default:
			lo, hi, problem := indexRange(item)
			if problem != "" {
				return refuse(problem)
			}
			for n := lo; n <= hi; n++ {
				if seenIndex[n] {
					return refuse("names device " + strconv.Itoa(n) + " twice")
				}
				seenIndex[n] = true
				d.Indexes = append(d.Indexes, n)
			}
		}
		if len(d.Indexes) > 0 && len(d.UUIDs) > 0 {
			return refuse("mixes indexes and UUIDs")
		}
		if d.Len() > MaxGPUsPerNode {
			return refuse("names more than " + strconv.Itoa(MaxGPUsPerNode) + " devices")
		}
	}
	return d, nil
}

func isUUID(s string) bool {
	return strings.HasPrefix(s, "GPU-") || strings.HasPrefix(s, "MIG-")
}

func uuidProblem(s string) string {
	if len(s) <= len("GPU-") {
		return "the UUID " + Quote(s) + " is cut off"
	}
	if len(s) > MaxUUIDLen {
		return "the UUID is longer than " + strconv.Itoa(MaxUUIDLen) + " characters"
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !alnum(c) && (c < 'A' || c > 'Z') && c != '-' {
			return "the UUID " + Quote(s) + " may hold only letters, digits and dashes"
		}
	}
	return ""
}

// indexRange reads N, A-B, cuda:N or gpu:N.
func indexRange(item string) (lo, hi int, problem string) {
	num := strings.ToLower(item)
	for _, prefix := range []string{"cuda:", "gpu:"} {
		if rest, ok := strings.CutPrefix(num, prefix); ok {
			num = rest
			break
		}
	}
	a, b, isRange := strings.Cut(num, "-")
	if !isRange {
		b = a
	}
	if !digits(a) || !digits(b) {
		return 0, 0, Quote(item) + " is neither an index nor a UUID"
	}
	lo, hi = int(number(a, MaxDeviceIndex)), int(number(b, MaxDeviceIndex))
	if lo > MaxDeviceIndex || hi > MaxDeviceIndex {
		return 0, 0, "an index is above " + strconv.Itoa(MaxDeviceIndex)
	}
	if lo > hi {
		return 0, 0, "the range " + Quote(num) + " runs backwards"
	}
	return lo, hi, ""
}
