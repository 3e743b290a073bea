package policy

import (
	"math/big"
	"math/bits"
)

var logMin, logMax = log2(minArea), log2(maxArea)

// logBits is how many bits of a logarithm lie behind the point.
const logBits = 24

// log2 is the binary logarithm of x, which is at least 1 and below 2^32, in fixed point with logBits bits behind the point,
// rounded down: the whole part is the highest bit's place, each further bit comes from squaring the mantissa.
func log2(x uint64) int64 {
	whole := bits.Len64(x) - 1
	result := int64(whole) << logBits
	mantissa := x << (31 - whole) // in [1, 2) with 31 bits behind the point
	for bit := int64(1) << (logBits - 1); bit > 0; bit >>= 1 {
		mantissa = mantissa * mantissa >> 31
		if mantissa >= 1<<32 {
			mantissa >>= 1
			result |= bit
		}
	}
	return result
}

// roots[i] is 2^(-2^-(i+1)) with 63 bits behind the point, rounded down: each is the square root of the one before.
var roots = makeRoots()

func makeRoots() (r [partBits]uint64) {
	last := uint64(1) << 62 // a half
	for i := range r {
		x := new(big.Int).Lsh(new(big.Int).SetUint64(last), 63)
		last = x.Sqrt(x).Uint64()
		r[i] = last
	}
	return r
}

// halved is weight * 2^-r, rounded down, for a weight of at least 0 and r in units of 1/One. It never grows with r.
func halved(weight int64, r uint64) int64 {
	whole := r >> partBits
	if whole >= 63 {
		return 0
	}
	factor := uint64(1) << 63
	for i, root := range roots {
		if r&(1<<(partBits-1-i)) != 0 {
			hi, lo := bits.Mul64(factor, root)
			factor = hi<<1 | lo>>63
		}
	}
	hi, lo := bits.Mul64(uint64(weight), factor)
	return int64((hi<<1 | lo>>63) >> whole)
}
