package daemon

import "testing"

func TestMemoryIsGivenBackAtRest(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	var r restful
	for i, c := range []struct {
		now  heapReading
		want bool
	}{
		{heapReading{allocated: 900 * mib, live: 100 * mib, resident: 200 * mib}, false},
		{heapReading{allocated: 901 * mib, live: 100 * mib, resident: 200 * mib}, false},
		{heapReading{allocated: 902 * mib, live: 100 * mib, resident: 200 * mib}, true},
		// Nothing worth it is left.
		{heapReading{allocated: 903 * mib, live: 100 * mib, resident: 110 * mib}, false},
		// Work: it has to come to rest again.
		{heapReading{allocated: 990 * mib, live: 100 * mib, resident: 200 * mib}, false},
		{heapReading{allocated: 991 * mib, live: 100 * mib, resident: 200 * mib}, false},
		{heapReading{allocated: 992 * mib, live: 100 * mib, resident: 200 * mib}, true},
	} {
		if got := r.due(c.now); got != c.want {
			t.Errorf("reading %d: %v, want %v", i, got, c.want)
		}
	}
}
