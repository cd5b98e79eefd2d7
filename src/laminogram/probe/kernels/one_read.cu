// What the usual statistics want of a site (rows, tokens, channels), in one read of it. CUDA C,
// because Triton has no counters in shared memory.
//
// A block reads `span` tokens of one row by 128 channels; its warps take tokens in turn. It adds to
// running sums of powers about a fixed center, to extrema and to counts by leading bits, counts what
// reaches a threshold, and appends the keys of values that may be among the largest. Every sum has
// one owner, so the same data gives the same bits. The host's side of it is one_read.py.
//
// Macros: DTYPE 0 float32, 1 bfloat16, 2 float16; WIDE the type sums of a span are kept in; WARPS of
// a block; COPIES of the counters, at most one a lane: with 32 each lane has a memory bank of its own
// and no two ever wait for each other.

#define LANES 32
#define PER_LANE 4
#define BLOCK (LANES * PER_LANE)
#define BINS 1280
#define FIELDS (BINS + 2)  // below the first edge, the bins, from the last edge up

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
#if DTYPE == 0
typedef uint4 Vector;
#else
typedef uint2 Vector;
#endif

#define INFINITE __int_as_float(0x7f800000)

__device__ __forceinline__ u32 widened(u32 half) {
    float out;
    asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(out) : "r"(half));
    return __float_as_uint(out);
}

__device__ __forceinline__ void unpack(const Vector v, u32* bits) {
#if DTYPE == 0
    bits[0] = v.x, bits[1] = v.y, bits[2] = v.z, bits[3] = v.w;
#elif DTYPE == 1
    bits[0] = v.x << 16, bits[1] = v.x & 0xffff0000u;
    bits[2] = v.y << 16, bits[3] = v.y & 0xffff0000u;
#else
    bits[0] = widened(v.x & 0xffffu), bits[1] = widened(v.x >> 16);
    bits[2] = widened(v.y & 0xffffu), bits[3] = widened(v.y >> 16);
#endif
}

// The leading 8 places choose the bin, and their middle is never near an edge: an approximate
// logarithm names the right bin. 2^23 leaves no fraction. NaN and infinity go up, zero goes down.
__device__ __forceinline__ void count(u32 counters, u32 bits) {
    float place;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(place) : "f"(__uint_as_float((bits & 0x7fff8000u) | 0x4000u)));
    place = __fmaf_rd(place, 16.0f, 8388608.0f + 641.0f);
    place = fmaxf(fminf(place, 8388608.0f + (FIELDS - 1)), 8388608.0f);
    const u32 at = counters + __float_as_uint(place) * (COPIES * 4);  // the 2^23 is taken off in counters
    asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(at), "r"(1) : "memory");
}

struct Sums {
    WIDE power[4][PER_LANE];
    float low[PER_LANE], high[PER_LANE];
    int above[PER_LANE], missing[PER_LANE];
};

// EXACT leaves out what is not finite, and counts it; COUNTS counts by leading bits.
template <bool EXACT, bool COUNTS>
__device__ __forceinline__ void take(
    Sums& a, const Vector v, const WIDE* center, float threshold, u32 counters) {
    u32 bits[PER_LANE];
    unpack(v, bits);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        if (COUNTS) count(counters, bits[i]);
        const float value = __uint_as_float(bits[i]);
        if (EXACT && !(fabsf(value) < INFINITE)) {
            a.missing[i] += 1;
            continue;
        }
        const WIDE d = (WIDE)value - center[i];
        const WIDE square = d * d;
        a.power[0][i] += d;
        a.power[1][i] += square;
        a.power[2][i] += square * d;
        a.power[3][i] += square * square;
        a.low[i] = fminf(a.low[i], value);
        a.high[i] = fmaxf(a.high[i], value);
        a.above[i] += fabsf(value) >= threshold;
    }
}

template <bool EXACT, bool COUNTS>
__device__ __forceinline__ void walk(
    Sums& a, const Vector* at, int first, int last, i64 stride, const WIDE* center, float threshold,
    u32 counters) {
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        for (int p = 0; p < 4; ++p) a.power[p][i] = 0;
        a.low[i] = INFINITE;
        a.high[i] = -INFINITE;
        a.above[i] = a.missing[i] = 0;
    }
    int t = first;
    for (; t + 3 * WARPS < last; t += 4 * WARPS) {
        Vector v[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = at[(t + j * WARPS) * stride];
#pragma unroll
        for (int j = 0; j < 4; ++j) take<EXACT, COUNTS>(a, v[j], center, threshold, counters);
    }
    for (; t < last; t += WARPS) take<EXACT, COUNTS>(a, at[t * stride], center, threshold, counters);
}

// Append the keys of up to k values of at least the size `floor`, largest first: the bits of |x|,
// then the place in order (rank of the document, token, channel), the first place being the largest,
// then the sign. It walks once for every key: the floor is there to make that rare.
__device__ void append(
    const Vector* at, int begin, int end, i64 stride, i64 order, int channels, bool inside,
    float floor, int k, i64* keys, int* found) {
    __shared__ i64 bests[WARPS];
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const i64 bound = (i64)__float_as_uint(floor) << 32;
    i64 last = 0x7fffffffffffffffLL;
    for (int kept = 0; kept < k; ++kept) {
        i64 best = -1;
        for (int t = begin + warp; inside && t < end; t += WARPS) {
            u32 bits[PER_LANE];
            unpack(at[t * stride], bits);
#pragma unroll
            for (int i = 0; i < PER_LANE; ++i) {
                const u32 size = bits[i] & 0x7fffffffu;
                const i64 place = 0x7fffffffLL - (order + (i64)t * channels + i);
                const i64 key = ((i64)size << 32) | (place << 1) | (bits[i] >> 31);
                if (size < 0x7f800000u && key < last && key > best) best = key;
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
        if (threadIdx.x == 0) keys[atomicAdd(found, 1)] = best;
        last = best;
    }
}

// x (rows, tokens, channels); lengths, ranks (rows): tokens that count, the document's place in
// order. Of this slot: floor (1): the size from which values are kept; centers (channels); sums
// (4, places, channels), ranges (2, places, channels), above (places, channels), of which a block of
// tokens owns the place of its number; missing (channels): not finite; histogram: zero, underflow,
// the bins, overflow, not finite; keys, found (1): appended, at most k of a block.
extern "C" __global__ void __launch_bounds__(WARPS * LANES, 1) one_read(
    const Vector* __restrict__ x, const int* __restrict__ lengths, const int* __restrict__ ranks,
    const float* __restrict__ floor_, const float* __restrict__ centers, double* __restrict__ sums,
    float* __restrict__ ranges, int* __restrict__ above, int* __restrict__ missing,
    u64* __restrict__ histogram, i64* __restrict__ keys, int* __restrict__ found, double threshold_,
    int k, int tokens, int channels, int spans, int span, int places, int only_keys) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ int zeros_here, missing_here, tiny_here;
    const float threshold = (float)threshold_;
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int place = blockIdx.x, row = place / spans, begin = (place % spans) * span;
    const int end = min(begin + span, lengths[row]);
    const int channel = blockIdx.y * BLOCK + lane * PER_LANE;
    const bool inside = channel < channels;
    const i64 stride = channels / PER_LANE;
    const Vector* at = x + (i64)row * tokens * stride + channel / PER_LANE;
    const i64 order = (i64)ranks[row] * tokens * channels + channel;
    if (only_keys) {
        append(at, begin, end, stride, order, channels, inside, *floor_, k, keys, found);
        return;
    }

    u32* table = (u32*)memory;
    for (int i = threadIdx.x; i < FIELDS * COPIES / 4; i += WARPS * LANES)
        ((uint4*)memory)[i] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x == 0) zeros_here = missing_here = tiny_here = 0;
    WIDE center[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) center[i] = inside ? (WIDE)centers[channel + i] : (WIDE)0;
    const u32 counters =
        (u32)__cvta_generic_to_shared(table) + (lane % COPIES) * 4 - 0x4b000000u * (COPIES * 4);
    __syncthreads();

    Sums a;
    const int first = begin + warp, last = inside ? end : begin;
    walk<false, true>(a, at, first, last, stride, center, threshold, counters);
    WIDE all = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) all += a.power[1][i];
    if (!(all < (WIDE)INFINITE))  // an infinity or NaN shows in the sum: once more without it
        walk<true, false>(a, at, first, last, stride, center, threshold, counters);
    __syncthreads();

    for (int i = threadIdx.x; i < FIELDS; i += WARPS * LANES) {
        u32 sum = 0;
#pragma unroll 8
        for (int copy = 0; copy < COPIES; ++copy) sum += table[i * COPIES + (copy + lane) % COPIES];
        if (i == 0) tiny_here = sum;
        if (sum) atomicAdd(histogram + i + 1, (u64)sum);
    }
    __syncthreads();

    // Everything of every warp side by side, then added up by channel.
    WIDE* wide = (WIDE*)memory;
    float* extreme = (float*)(wide + 4 * WARPS * BLOCK);
    int* reached = (int*)(extreme + 2 * WARPS * BLOCK);
    int zeros = 0, lost = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int mine = warp * BLOCK + lane * PER_LANE + i;
        for (int p = 0; p < 4; ++p) wide[p * WARPS * BLOCK + mine] = a.power[p][i];
        extreme[mine] = a.low[i];
        extreme[WARPS * BLOCK + mine] = a.high[i];
        reached[mine] = a.above[i];
        lost += a.missing[i];
        if (a.missing[i]) atomicAdd(missing + channel + i, a.missing[i]);
    }
    if (lost) atomicAdd(&missing_here, lost);
    if (tiny_here) {  // zeros are told from tiny values in a walk of their own
        for (int t = first; t < last; t += WARPS) {
            u32 bits[PER_LANE];
            unpack(at[t * stride], bits);
            for (int i = 0; i < PER_LANE; ++i) zeros += (bits[i] & 0x7fffffffu) == 0u;
        }
        if (zeros) atomicAdd(&zeros_here, zeros);
    }
    __syncthreads();
    if (threadIdx.x == 0 && zeros_here) {
        atomicAdd(histogram, (u64)zeros_here);
        atomicAdd(histogram + 1, (u64)0 - (u64)zeros_here);
    }
    if (threadIdx.x == 0 && missing_here) {
        atomicAdd(histogram + FIELDS + 1, (u64)missing_here);
        atomicAdd(histogram + FIELDS, (u64)0 - (u64)missing_here);
    }

    const int column = threadIdx.x % BLOCK, group = threadIdx.x / BLOCK, to = blockIdx.y * BLOCK + column;
    const i64 out = (i64)place * channels + to, all_places = (i64)places * channels;
    bool large = false;
    if (to < channels) {
        for (int p = group; p < 4; p += WARPS * LANES / BLOCK) {
            double sum = 0;
            for (int w = 0; w < WARPS; ++w) sum += wide[(p * WARPS + w) * BLOCK + column];
            sums[p * all_places + out] += sum;
        }
        if (group == 0) {
            float low = INFINITE, high = -INFINITE;
            int number = 0;
            for (int w = 0; w < WARPS; ++w) {
                low = fminf(low, extreme[w * BLOCK + column]);
                high = fmaxf(high, extreme[(WARPS + w) * BLOCK + column]);
                number += reached[w * BLOCK + column];
            }
            ranges[out] = fminf(ranges[out], low);
            ranges[all_places + out] = fmaxf(ranges[all_places + out], high);
            above[out] = number;
            large = fmaxf(high, -low) >= *floor_;
        }
    }
    if (__syncthreads_or(large))
        append(at, begin, end, stride, order, channels, inside, *floor_, k, keys, found);
}

// Join what was appended to the k largest of each slot (one block a slot), and raise the floor.
// values, documents, positions, columns (2, slots, k): the first half is read and written, the second
// is room; empty places have the value NaN. order (rows): the batch's documents, rising.
extern "C" __global__ void join_largest(
    const i64* __restrict__ keys, int* __restrict__ found, const i64* __restrict__ order,
    float* __restrict__ values, i64* __restrict__ documents, int* __restrict__ positions,
    int* __restrict__ columns, float* __restrict__ floors, int k, int tokens, int channels,
    int capacity) {
    const int slot = blockIdx.x, slots = gridDim.x, number = found[slot];
    if (number == 0) return;
    const i64 here = (i64)slot * k, room = (i64)slots * k + here;
    const i64* mine = keys + (i64)slot * capacity;
    auto read = [&](int i, float& value, i64& document, int& position, int& column) {
        if (i < k) {
            value = values[here + i], document = documents[here + i];
            position = positions[here + i], column = columns[here + i];
            return;
        }
        const i64 key = mine[i - k], at = 0x7fffffffLL - ((key & 0xffffffffLL) >> 1);
        value = __uint_as_float((u32)(key >> 32) | ((u32)(key & 1) << 31));
        document = order[at / channels / tokens];
        position = (int)(at / channels % tokens), column = (int)(at % channels);
    };
    for (int i = threadIdx.x; i < k + number; i += blockDim.x) {
        float value, other_value;
        i64 document, other_document;
        int position, column, other_position, other_column, rank = 0;
        read(i, value, document, position, column);
        if (value != value) continue;
        for (int j = 0; j < k + number && rank < k; ++j) {
            read(j, other_value, other_document, other_position, other_column);
            const float size = fabsf(value), other = fabsf(other_value);
            const bool before = other_document != document ? other_document < document
                : other_position != position ? other_position < position : other_column < column;
            rank += j != i && (other > size || (other == size && before));
        }
        if (rank >= k) continue;
        values[room + rank] = value, documents[room + rank] = document;
        positions[room + rank] = position, columns[room + rank] = column;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        values[here + i] = values[room + i], documents[here + i] = documents[room + i];
        positions[here + i] = positions[room + i], columns[here + i] = columns[room + i];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const float least = fabsf(values[here + k - 1]);
        if (least == least) floors[slot] = fmaxf(floors[slot], least);
        found[slot] = 0;
    }
}
