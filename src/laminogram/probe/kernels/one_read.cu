// Everything that the usual statistics want of a site (rows, tokens, channels), in one read. CUDA C,
// because Triton has no counters in shared memory.
//
// A block reads SPAN tokens of one row by 32 lanes' worth of channels; its warps take tokens in turn.
// It leaves sums of powers about a center of its own, extrema and counts of every channel, the keys
// of values that may be among the largest, and adds to the counts by leading bits.
//
// Macros: DTYPE 0 float32, 1 bfloat16, 2 float16; SPAN tokens; KEYS values kept of a block; WIDE the
// type that sums are kept in.

#define WARPS 8
#define LANES 32
#define PER_LANE 4
#define BLOCK (LANES * PER_LANE)
#define COPIES 2
#define CELLS 4096  // 256 exponents of 16 bins; the first cell is zero alone, the rest of 0 tiny

typedef unsigned int u32;
typedef long long i64;
#if DTYPE == 0
typedef uint4 Vector;
#else
typedef uint2 Vector;
#endif

struct Sums {
    WIDE s1[PER_LANE], s2[PER_LANE], s3[PER_LANE], s4[PER_LANE];
    float low[PER_LANE], high[PER_LANE];
    int number[PER_LANE], above[PER_LANE];
};

__device__ __forceinline__ u32 wide(u32 half) {
#if DTYPE == 1
    return half << 16;
#else
    float out;
    asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(out) : "r"(half));
    return __float_as_uint(out);
#endif
}

__device__ __forceinline__ void unpack(const Vector v, u32* bits) {
#if DTYPE == 0
    bits[0] = v.x, bits[1] = v.y, bits[2] = v.z, bits[3] = v.w;
#elif DTYPE == 1
    bits[0] = v.x << 16, bits[1] = v.x & 0xffff0000u;
    bits[2] = v.y << 16, bits[3] = v.y & 0xffff0000u;
#else
    bits[0] = wide(v.x & 0xffffu), bits[1] = wide(v.x >> 16);
    bits[2] = wide(v.y & 0xffffu), bits[3] = wide(v.y >> 16);
#endif
}

// The middle of a value's leading 8 places is never near an edge, so an approximate logarithm names
// the right one of 16 bins for each of them.
__device__ __forceinline__ int cell_of(u32 bits) {
    float place;
    asm("lg2.approx.f32 %0, %1;" : "=f"(place) : "f"(__uint_as_float((bits & 0x007f8000u) | 0x3f804000u)));
    const int bin = __float_as_int(__fmaf_rd(place, 16.0f, 8388608.0f));  // 2^23 leaves no fraction
    const int cell = ((bits >> 19) & 0xff0u) | (bin & 15);
    return (bits & 0x7fffffffu) == 0u ? 0 : max(cell, 1);
}

template <bool EXACT, bool COUNTS>
__device__ __forceinline__ void take(
    Sums& a, const Vector v, const float* center, float threshold, int* table) {
    u32 bits[PER_LANE];
    unpack(v, bits);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        if (COUNTS) atomicAdd(table + cell_of(bits[i]), 1);
        const float value = __uint_as_float(bits[i]);
        if (EXACT && !(fabsf(value) < __int_as_float(0x7f800000))) continue;
        const WIDE d = (WIDE)value - (WIDE)center[i];
        const WIDE square = d * d;
        a.s1[i] += d;
        a.s2[i] += square;
        a.s3[i] += square * d;
        a.s4[i] += square * square;
        a.low[i] = fminf(a.low[i], value);
        a.high[i] = fmaxf(a.high[i], value);
        a.above[i] += fabsf(value) >= threshold;
        if (EXACT) a.number[i] += 1;
    }
}

__device__ __forceinline__ void clear(Sums& a) {
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        a.s1[i] = a.s2[i] = a.s3[i] = a.s4[i] = 0;
        a.low[i] = __int_as_float(0x7f800000);
        a.high[i] = __int_as_float(0xff800000);
        a.number[i] = a.above[i] = 0;
    }
}

template <bool EXACT, bool COUNTS>
__device__ __forceinline__ void walk(
    Sums& a, const Vector* at, int first, int last, i64 stride, const float* center, float threshold,
    int* table) {
    clear(a);
    int t = first;
    for (; t + 3 * WARPS < last; t += 4 * WARPS) {
        Vector v[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = at[(t + j * WARPS) * stride];
#pragma unroll
        for (int j = 0; j < 4; ++j) take<EXACT, COUNTS>(a, v[j], center, threshold, table);
    }
    for (; t < last; t += WARPS) take<EXACT, COUNTS>(a, at[t * stride], center, threshold, table);
}

// The sum over the warps of each channel, by thread.
template <typename A, typename F>
__device__ __forceinline__ A joined(A* room, const A* own, int warp, int lane, F join) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) room[warp * BLOCK + lane * PER_LANE + i] = own[i];
    __syncthreads();
    A out = room[threadIdx.x % BLOCK];
    for (int w = 1; w < WARPS; ++w) out = join(out, room[w * BLOCK + threadIdx.x % BLOCK]);
    return out;
}

extern "C" __global__ void __launch_bounds__(WARPS * LANES, RESIDENT) one_read(
    const Vector* __restrict__ x, const int* __restrict__ lengths, const int* __restrict__ ranks,
    double threshold_, const float* __restrict__ floor_, float* __restrict__ centers,
    WIDE* __restrict__ sums, float* __restrict__ extrema, int* __restrict__ counts,
    i64* __restrict__ keys, int* __restrict__ found, unsigned long long* __restrict__ histogram,
    int tokens, int channels, int spans, int size) {
    __shared__ __align__(16) int tables[COPIES * CELLS];
    __shared__ float centers_here[BLOCK];
    const float threshold = (float)threshold_;
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int span = blockIdx.x, row = span / spans, begin = (span % spans) * SPAN;
    const int length = lengths[row], end = min(begin + SPAN, length);
    const int channel = blockIdx.y * BLOCK + lane * PER_LANE;
    const bool inside = channel < channels;
    const i64 stride = channels / PER_LANE;
    const Vector* at = x + (i64)row * tokens * stride + channel / PER_LANE;
    int* table = tables + (warp % COPIES) * CELLS;

    // The center: the mean of a token of each warp.
    float* room = (float*)tables;
    float own[PER_LANE], center[PER_LANE];
    const bool some = inside && begin + warp < end;
    Vector firsts = {};
    if (some) firsts = at[(begin + warp) * stride];
    u32 bits[PER_LANE];
    unpack(firsts, bits);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const float value = __uint_as_float(bits[i]);
        own[i] = fabsf(value) < __int_as_float(0x7f800000) ? value : 0.0f;
    }
    const float total = joined(room, own, warp, lane, [](float p, float q) { return p + q; });
    if (threadIdx.x < BLOCK) centers_here[threadIdx.x] = total / max(1, min(WARPS, end - begin));
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) center[i] = centers_here[lane * PER_LANE + i];
    for (int i = threadIdx.x; i < COPIES * CELLS; i += WARPS * LANES) tables[i] = 0;
    __syncthreads();

    Sums a;
    const bool whole = end - begin == SPAN;
    bool bad = false;
    if (whole && inside) {
        walk<false, true>(a, at, begin + warp, end, stride, center, threshold, table);
        WIDE all = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            all += a.s2[i];
            a.number[i] = SPAN / WARPS;
        }
        bad = !(all < (WIDE)__int_as_float(0x7f800000));
    } else if (inside) {
        walk<true, true>(a, at, begin + warp, end, stride, center, threshold, table);
    } else {
        clear(a);
    }
    if (bad) walk<true, false>(a, at, begin + warp, end, stride, center, threshold, table);

    __syncthreads();
    for (int i = threadIdx.x; i < CELLS; i += WARPS * LANES) {
        int sum = 0;
#pragma unroll
        for (int copy = 0; copy < COPIES; ++copy) sum += tables[copy * CELLS + i];
        if (sum) atomicAdd(histogram + i, (unsigned long long)sum);
    }
    const int out_channel = blockIdx.y * BLOCK + threadIdx.x % BLOCK;
    const i64 out = (i64)span * channels + out_channel;
    const bool mine = threadIdx.x < BLOCK && out_channel < channels;
    auto plus = [](WIDE p, WIDE q) { return p + q; };
    const WIDE* powers[4] = {a.s1, a.s2, a.s3, a.s4};
#pragma unroll
    for (int p = 0; p < 4; ++p) {
        const WIDE sum = joined((WIDE*)tables, powers[p], warp, lane, plus);
        if (mine) sums[(i64)p * size + out] = sum;
    }
    const float low = joined((float*)tables, a.low, warp, lane, [](float p, float q) { return fminf(p, q); });
    const float high = joined((float*)tables, a.high, warp, lane, [](float p, float q) { return fmaxf(p, q); });
    auto add = [](int p, int q) { return p + q; };
    const int number = joined((int*)tables, a.number, warp, lane, add);
    const int above = joined((int*)tables, a.above, warp, lane, add);
    if (mine) {
        centers[out] = centers_here[threadIdx.x];
        extrema[out] = low;
        extrema[size + out] = high;
        counts[out] = number;
        counts[size + out] = above;
    }
    const float floor = *floor_;
    const bool high_enough = mine && fmaxf(high, -low) >= floor;
    const int program = span * gridDim.y + blockIdx.y;
    int kept = 0;
    if (__syncthreads_or(high_enough)) {
        __shared__ i64 bests[WARPS];
        i64 last = 0x7fffffffffffffffLL;
        const i64 bound = (i64)__float_as_uint(floor) << 32;
        while (kept < KEYS) {
            i64 best = -1;
            for (int t = begin + warp; inside && t < end; t += WARPS) {
                unpack(at[t * stride], bits);
#pragma unroll
                for (int i = 0; i < PER_LANE; ++i) {
                    const u32 absolute = bits[i] & 0x7fffffffu;
                    const i64 order = ((i64)ranks[row] * tokens + t) * channels + channel + i;
                    const i64 key = ((i64)absolute << 32) | ((0x7fffffffLL - order) << 1) | (bits[i] >> 31);
                    if (absolute < 0x7f800000u && key < last && key > best) best = key;
                }
            }
            for (int step = 16; step; step >>= 1) {
                const i64 other = __shfl_xor_sync(0xffffffffu, best, step);
                best = other > best ? other : best;
            }
            __syncthreads();
            if (lane == 0) bests[warp] = best;
            __syncthreads();
            for (int w = 0; w < WARPS; ++w) best = bests[w] > best ? bests[w] : best;
            if (best < bound) break;
            if (threadIdx.x == 0) keys[(i64)program * KEYS + kept] = best;
            ++kept;
            last = best;
        }
    }
    if (threadIdx.x == 0) found[program] = kept;
}
