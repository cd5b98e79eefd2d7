// What kernels of statistics share: words of a lane's values, what is compared by word, the place of
// a value in a histogram.
//
// Macros: DTYPE 0 float32, 1 bfloat16, 2 float16; WIDE the type that sums of a span are kept in;
// PER_LANE channels of a lane. Two halves share a word.

#define LANES 32
#define BINS 1280  // of a histogram: 16 an octave from 2^-40
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#if DTYPE == 0
#define PER_WORD 1
#define ONES 1u
#define SIZES 0x7fffffffu
#define INFINITIES 0x7f800000u
#else
#define PER_WORD 2
#define ONES 0x00010001u
#define SIZES 0x7fff7fffu
#define INFINITIES (DTYPE == 1 ? 0x7f807f80u : 0x7c007c00u)
#endif
#define WORDS (PER_LANE / PER_WORD)
#define INFINITE __int_as_float(0x7f800000)
#define EVERY 0xffffffffu

struct __align__(WORDS * 4) Vector {
    u32 word[WORDS];
};

// The bits, as of a float32, of a word's value.
__device__ __forceinline__ u32 widened(u32 word, int half) {
#if DTYPE == 0
    return word;
#elif DTYPE == 1
    return half ? word & 0xffff0000u : word << 16;
#else
    float out;
    word >>= 16 * half;
    asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(out) : "r"(word));
    return __float_as_uint(out);
#endif
}

__device__ __forceinline__ u32 bits_of(const u32* words, int i) {
    return widened(words[i / PER_WORD], i % PER_WORD);
}

#if DTYPE == 0
__device__ __forceinline__ u32 least(u32 a, u32 b) {
    return __float_as_uint(fminf(__uint_as_float(a), __uint_as_float(b)));
}
__device__ __forceinline__ u32 most(u32 a, u32 b) {
    return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
}
#else
#if DTYPE == 1
#define PAIR "bf16x2"
#else
#define PAIR "f16x2"
#endif
__device__ __forceinline__ u32 least(u32 a, u32 b) {
    asm("min." PAIR " %0, %0, %1;" : "+r"(a) : "r"(b));
    return a;
}
__device__ __forceinline__ u32 most(u32 a, u32 b) {
    asm("max." PAIR " %0, %0, %1;" : "+r"(a) : "r"(b));
    return a;
}
#endif

// What `reaching` wants: one less the bits of the least value that is not below the threshold.
__device__ u32 below(float threshold) {
    const u32 bits = __float_as_uint(threshold);
#if DTYPE == 0
    return 1u - bits;
#elif DTYPE == 1
    return ((1u - ((bits + 0xffffu) >> 16)) & 0xffffu) * ONES;
#else
    u32 up;
    asm("{.reg .b16 h; cvt.rp.f16.f32 h, %1; cvt.u32.u16 %0, h;}" : "=r"(up) : "f"(threshold));
    return ((1u - up) & 0xffffu) * ONES;
#endif
}

// A value less its center; the center comes as its negative.
__device__ __forceinline__ WIDE less(u32 bits, WIDE center) {
    return (WIDE)__uint_as_float(bits) + center;
}

// One for each value of a word that reaches the threshold.
__device__ __forceinline__ u32 reaching(u32 word, u32 below) {
#if DTYPE == 0
    return __viaddmin_s32_relu(word & SIZES, below, ONES);
#else
    return __viaddmin_s16x2_relu(word & SIZES, below, ONES);
#endif
}

// The place of a value among `number` bins from 2^from on; 0 below them, number + 1 above. The
// leading 8 places choose the bin, and their middle is never near an edge: an approximate logarithm
// names the right bin. 2^23 leaves no fraction. NaN and infinity go up, zero goes down.
__device__ __forceinline__ int place_of(u32 bits, int from, int number) {
    float place;
    const u32 middle = (DTYPE == 1 ? bits : bits & 0xffff8000u) | 0x4000u;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(place) : "f"(fabsf(__uint_as_float(middle))));
    place = __fmaf_rd(place, 16.0f, 8388608.0f + (1 - 16 * from));
    return __viaddmin_s32_relu(__float_as_int(place), -0x4b000000, number + 1);
}
