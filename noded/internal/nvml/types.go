package nvml

import (
	"regexp"
	"strings"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// unknownType is the type of a GPU whose name says nothing.
const unknownType = "gpu"

// special are names that the rules of Type would misread, in lower case and without the maker's name.
var special = map[string]string{
	"orin (nvgpu)":                  "orin",
	"jetson agx orin developer kit": "orin",
	"jetson agx thor developer kit": "thor",
	"graphics device":               unknownType, // what an old driver calls a new card
	"titan x (pascal)":              "titanx",
	"titan xp collectors edition":   "titanxp",
	"cmp 170hx":                     "cmp170hx",
}

var (
	// chip is a card named after its chip: a100, h200, l40s, gh200, gb10, a10g, v100s.
	chip = regexp.MustCompile(`^(g?b|gh|[ahlptvkm])[0-9]{1,4}[a-z]{0,2}$`)
	// number is a card of a numbered family: rtx 4090.
	number = regexp.MustCompile(`^[0-9]{3,4}[a-z]{0,2}$`)
	// build is how a card is built rather than what it is.
	build = regexp.MustCompile(`^([0-9]+gb|hbm[0-9][a-z]?|sxm[0-9]?|pcie|nvl|oam|mig)$`)
	// profile is a MIG instance's shape at the end of its name: 1g.10gb, 1c.2g.20gb, 1g.10gb+me.
	profile = regexp.MustCompile(`(?i)\bMIG ((?:[0-9]+c\.)?[0-9]+g\.[0-9]+gb(?:[+-][a-z.]+)*)$`)
)

// Type is the short form of a card's name that jobs ask for: "NVIDIA H100 80GB HBM3" is an h100, "NVIDIA GeForce RTX 4090"
// an rtx4090. How a card is built and how much memory it has do not count. A name of no known pattern is turned into a
// word. The result is always a sound type.
func Type(name string) string {
	t := strings.ToLower(strings.TrimSpace(name))
	if loc := profile.FindStringIndex(t); loc != nil {
		t = strings.TrimSpace(t[:loc[0]])
	}
	for {
		rest := t
		for _, maker := range []string{"mock ", "nvidia ", "tesla ", "quadro ", "geforce "} {
			rest = strings.TrimPrefix(rest, maker)
		}
		if rest == t {
			break
		}
		t = rest
	}
	if typ, ok := special[t]; ok {
		return typ
	}
	words := strings.FieldsFunc(t, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' })
	for _, w := range words {
		if chip.MatchString(w) {
			return w
		}
	}
	if typ, ok := family(words); ok {
		return typ
	}
	var kept []string
	for _, w := range words {
		if w = strings.Trim(w, "."); w != "" && !build.MatchString(w) {
			kept = append(kept, w)
		}
	}
	slug := strings.Join(kept, "-")
	if len(slug) > gres.MaxTypeLen {
		slug = strings.TrimRight(slug[:gres.MaxTypeLen], "-.")
	}
	if _, err := gres.ParseType(slug); err != nil {
		return unknownType
	}
	return slug
}

// family reads rtx, gtx and titan cards.
func family(words []string) (string, bool) {
	if len(words) < 2 {
		return "", false
	}
	name, rest := words[0], words[1:]
	switch name {
	case "titan":
		return name + rest[0], len(rest[0]) <= 4
	case "rtx", "gtx":
	default:
		return "", false
	}
	if rest[0] == "pro" && len(rest) > 1 {
		name, rest = name+"pro", rest[1:]
	}
	if !number.MatchString(rest[0]) {
		return "", false
	}
	name += rest[0]
	laptop := ""
	for _, w := range rest[1:] {
		switch w {
		case "ti", "super", "ada", "d":
			name += w
		case "laptop":
			laptop = "-laptop"
		}
	}
	return name + laptop, true
}

// Profile is the shape of a MIG instance, from its name: "1g.10gb". Empty when the name has none.
func Profile(name string) string {
	if m := profile.FindStringSubmatch(strings.TrimSpace(name)); m != nil {
		return strings.ToLower(m[1])
	}
	return ""
}

// instanceType joins a card's type and an instance's shape: "h100-1g.10gb". A plus in a shape becomes a dot; an instance of
// no known shape is "h100-mig".
func instanceType(card, shape string) string {
	if typ, err := gres.ParseType(card + "-" + strings.ReplaceAll(shape, "+", ".")); err == nil && shape != "" {
		return typ
	}
	const suffix = "-mig"
	return card[:min(len(card), gres.MaxTypeLen-len(suffix))] + suffix
}
