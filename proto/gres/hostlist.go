package gres

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Limits on lists of nodes.
const (
	// MaxHosts bounds how many names one list may expand to, counted before repeats are dropped.
	MaxHosts = 65536
	// MaxHostlistLen bounds a list's text in bytes.
	MaxHostlistLen = 1 << 20
	// MaxNodeName bounds a node name's length in bytes, MaxNodeLabel each of its labels.
	MaxNodeName  = 253
	MaxNodeLabel = 63
)

const (
	hostlistRemedy = "use names such as n1,n[2-4],gpu[01-16]"
	nodeNameRemedy = "use letters, digits and dashes, starting and ending with a letter or digit, for example gpu01"
)

// maxHostDigits is how many digits of a name count as its number; longer runs keep the rest as plain text.
const maxHostDigits = 15

// NodeName checks and lowers one node name: labels of letters, digits and dashes that start and end with a letter or a
// digit, joined by dots.
func NodeName(s string) (string, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	if problem := nodeNameProblem(t); problem != "" {
		return "", &Error{"node name", s, problem, nodeNameRemedy}
	}
	return t, nil
}

func nodeNameProblem(t string) string {
	if t == "" {
		return "is empty"
	}
	if len(t) > MaxNodeName {
		return "is longer than " + strconv.Itoa(MaxNodeName) + " characters"
	}
	for label := range strings.SplitSeq(t, ".") {
		switch {
		case label == "":
			return "has an empty label"
		case len(label) > MaxNodeLabel:
			return "has a label longer than " + strconv.Itoa(MaxNodeLabel) + " characters"
		}
		for i := 0; i < len(label); i++ {
			if !alnum(label[i]) && label[i] != '-' {
				return "may not hold " + Quote(firstRune(label[i:]))
			}
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return "may not start or end with a dash"
		}
	}
	return ""
}

// hostSpan is the numbers lo..hi of one range, printed with at least width digits.
type hostSpan struct {
	lo, hi int64
	width  int
}

// hostPart is literal text followed by perhaps one bracket group.
type hostPart struct {
	text  string
	spans []hostSpan
}

// ExpandHosts reads a list of nodes such as "n1,n[2-4,07-09],gpu[01-16]" and returns every name once, in the order
// written. Zero padding is kept; a name may hold several brackets ("rack[1-2]n[1-4]"). Names are lowered and checked as
// by NodeName. At most MaxHosts names; the count is checked before anything is built.
func ExpandHosts(s string) ([]string, error) {
	refuse := func(problem string) ([]string, error) {
		return nil, &Error{"node list", s, problem, hostlistRemedy}
	}
	if strings.TrimSpace(s) == "" {
		return refuse("is empty")
	}
	if len(s) > MaxHostlistLen {
		return refuse("is longer than 1 MiB")
	}
	items, problem := splitHosts(strings.ToLower(s))
	if problem != "" {
		return refuse(problem)
	}
	parsed := make([][]hostPart, 0, len(items))
	total := int64(0)
	for _, item := range items {
		parts, problem := hostParts(item)
		if problem != "" {
			return refuse(problem)
		}
		n := hostCount(parts)
		if n > MaxHosts || total+n > MaxHosts {
			return refuse("names more than " + strconv.Itoa(MaxHosts) + " nodes")
		}
		total += n
		parsed = append(parsed, parts)
	}
	names := make([]string, 0, total)
	seen := make(map[string]struct{}, total)
	for _, parts := range parsed {
		for _, name := range hostNames(parts) {
			if problem := nodeNameProblem(name); problem != "" {
				return refuse("the name " + Quote(name) + " " + problem)
			}
			if _, dup := seen[name]; !dup {
				seen[name] = struct{}{}
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// splitHosts cuts a list at the commas outside brackets.
func splitHosts(s string) (items []string, problem string) {
	depth, start := 0, 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i < len(s) && s[i] == '[':
			if depth++; depth > 1 {
				return nil, "has nested brackets"
			}
		case i < len(s) && s[i] == ']':
			if depth--; depth < 0 {
				return nil, "has a ] without a ["
			}
		case i == len(s) && depth > 0:
			return nil, "has a [ without a ]"
		case i == len(s) || s[i] == ',' && depth == 0:
			item := strings.TrimSpace(s[start:i])
			if item == "" {
				return nil, "has an empty item"
			}
			items = append(items, item)
			start = i + 1
		}
	}
	return items, ""
}

// hostParts cuts one item at its brackets. Brackets are balanced and not nested.
func hostParts(item string) (parts []hostPart, problem string) {
	for item != "" {
		open := strings.IndexByte(item, '[')
		if open < 0 {
			return append(parts, hostPart{text: item}), ""
		}
		end := strings.IndexByte(item, ']')
		part := hostPart{text: item[:open]}
		for r := range strings.SplitSeq(item[open+1:end], ",") {
			span, problem := hostRange(r)
			if problem != "" {
				return nil, problem
			}
			part.spans = append(part.spans, span)
		}
		parts = append(parts, part)
		item = item[end+1:]
	}
	return parts, ""
}

func hostRange(r string) (hostSpan, string) {
	a, b, isRange := strings.Cut(r, "-")
	if !isRange {
		b = a
	}
	if r == "" {
		return hostSpan{}, "has an empty bracket or range"
	}
	if !digits(a) || !digits(b) {
		return hostSpan{}, "has a bad range " + Quote(r)
	}
	if len(a) > maxHostDigits || len(b) > maxHostDigits {
		return hostSpan{}, "has a range " + Quote(r) + " with too many digits"
	}
	padded := func(d string) bool { return len(d) > 1 && d[0] == '0' }
	if len(a) != len(b) && (padded(b) || padded(a) && len(b) < len(a)) {
		return hostSpan{}, "has a range " + Quote(r) + " whose ends are padded differently"
	}
	span := hostSpan{lo: number(a, math.MaxInt64-1), hi: number(b, math.MaxInt64-1)}
	if padded(a) {
		span.width = len(a)
	}
	if span.lo > span.hi {
		return hostSpan{}, "has a range " + Quote(r) + " that runs backwards"
	}
	return span, ""
}

// hostCount is how many names an item makes, MaxHosts+1 for any number above MaxHosts.
func hostCount(parts []hostPart) int64 {
	total := int64(1)
	for _, p := range parts {
		if len(p.spans) == 0 {
			continue
		}
		n := int64(0)
		for _, sp := range p.spans {
			n = min(n+min(sp.hi-sp.lo+1, MaxHosts+1), MaxHosts+1)
		}
		total = min(total*n, MaxHosts+1)
	}
	return total
}

func hostNames(parts []hostPart) []string {
	names := []string{""}
	for _, p := range parts {
		var next []string
		for _, name := range names {
			name += p.text
			if len(p.spans) == 0 {
				next = append(next, name)
			}
			for _, sp := range p.spans {
				for n := sp.lo; n <= sp.hi; n++ {
					next = append(next, name+padNumber(n, sp.width))
				}
			}
		}
		names = next
	}
	return names
}

func padNumber(n int64, width int) string {
	d := strconv.FormatInt(n, 10)
	if len(d) < width {
		d = strings.Repeat("0", width-len(d)) + d
	}
	return d
}

// hostKey is a name taken apart for sorting and folding: text, number, text.
type hostKey struct {
	name           string
	prefix, suffix string
	num            string // digits as written; empty when the name has none
	n              int64
}

// keyOf takes the last run of digits in the first label, or in the whole name when that label has none.
func keyOf(name string) hostKey {
	label := name
	if i := strings.IndexByte(name, '.'); i >= 0 {
		label = name[:i]
	}
	start, end := lastDigits(label)
	if start == end {
		start, end = lastDigits(name)
	}
	if end-start > maxHostDigits {
		start = end - maxHostDigits
	}
	k := hostKey{name: name, prefix: name[:start], num: name[start:end], suffix: name[end:]}
	if k.num != "" {
		k.n = number(k.num, math.MaxInt64-1)
	}
	return k
}

// lastDigits finds the last run of digits; start == end means there is none, with all of s before it.
func lastDigits(s string) (start, end int) {
	end = len(s)
	for end > 0 && (s[end-1] < '0' || s[end-1] > '9') {
		end--
	}
	start = end
	for start > 0 && s[start-1] >= '0' && s[start-1] <= '9' {
		start--
	}
	if start == end {
		return len(s), len(s)
	}
	return start, end
}

func compareKeys(a, b hostKey) int {
	return cmp.Or(
		cmp.Compare(a.prefix, b.prefix),
		cmp.Compare(a.suffix, b.suffix),
		cmp.Compare(a.n, b.n),
		cmp.Compare(len(a.num), len(b.num)),
	)
}

// CompareHosts orders node names as people count them: n2 before n10. It is a total order, for slices.SortFunc.
func CompareHosts(a, b string) int {
	return compareKeys(keyOf(a), keyOf(b))
}

// FormatHosts prints node names as a sorted list, each once, with runs folded: "gpu[01-04,07],login". ExpandHosts reads
// it back when the names are valid ones and no more than MaxHosts.
func FormatHosts(names []string) string {
	keys := make([]hostKey, len(names))
	for i, name := range names {
		keys[i] = keyOf(name)
	}
	slices.SortFunc(keys, compareKeys)
	keys = slices.CompactFunc(keys, func(a, b hostKey) bool { return a.name == b.name })
	var b strings.Builder
	for i := 0; i < len(keys); {
		j := i + 1
		for keys[i].num != "" && j < len(keys) && keys[j].prefix == keys[i].prefix && keys[j].suffix == keys[i].suffix {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		writeGroup(&b, keys[i:j])
		i = j
	}
	return b.String()
}

// writeGroup prints names that differ in their number only, in ascending order.
func writeGroup(b *strings.Builder, group []hostKey) {
	if len(group) == 1 {
		b.WriteString(group[0].name)
		return
	}
	b.WriteString(group[0].prefix)
	b.WriteByte('[')
	for i := 0; i < len(group); {
		width := 0
		if lo := group[i].num; lo[0] == '0' {
			width = len(lo)
		}
		j := i
		for j+1 < len(group) && group[j+1].num == padNumber(group[j].n+1, width) {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(group[i].num)
		if j > i {
			b.WriteByte('-')
			b.WriteString(group[j].num)
		}
		i = j + 1
	}
	b.WriteByte(']')
	b.WriteString(group[0].suffix)
}
