// Packed products on their own: time, bytes of codes per second, what further sets of parameters and further inputs
// cost, on one and two threads; beside ATen's bfloat16 and int4 products and ggml's Q2_K when its library is found.
//   ninja -C build bench_kernels && build/bin/bench_kernels [--ggml libggml-base.so:libggml-cpu.so] [--shapes all]
// Every figure is the shortest of 15 runs, inputs prepared anew each time. "ms": codes lie
// where they fit (a server's last cache holds them all); "ms from memory": after 1 GB was read, with the fraction of
// the read bandwidth that its codes and parameters come in by. R: sets of parameters on one input, n: inputs, as
// multiples of one. Kernel: the one that REFRAIN_KERNEL names, else the best.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "quant/kernels/product.h"

namespace {

using namespace quant::kernels;

constexpr int kRuns = 15;
constexpr int64_t kGroup = 64;

struct Shape {
  const char* what;
  int64_t rows, columns;
};

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The shortest of kRuns runs of each, run in turn; what is timed has just run, so that its data are where they fit.
std::vector<double> shortest(const std::vector<std::function<void()>>& works) {
  std::vector<double> best(works.size(), 1e9);
  for (int run = 0; run < kRuns; ++run) {
    for (size_t i = 0; i < works.size(); ++i) {
      works[i]();
      best[i] = std::min(best[i], seconds(works[i]));
    }
  }
  return best;
}

// 1 GB that is read through: its own time is the read bandwidth, and what was in a cache before is not there any more.
class Memory {
 public:
  void read() {
    const auto* data = big_.const_data_ptr<int64_t>();
    const int64_t grain = (big_.numel() + at::get_num_threads() - 1) / at::get_num_threads();
    at::parallel_for(0, big_.numel(), grain, [&](int64_t begin, int64_t end) {
      int64_t sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = begin; i < end; ++i) sum += data[i];
      sums_[at::get_thread_num()] = sum;
    });
  }
  double bandwidth() {  // bytes per second, of all threads together
    return static_cast<double>(big_.nbytes()) / shortest({[&] { read(); }})[0];
  }
  // The shortest of kRuns runs of `work` whose data are in memory, in no cache.
  double cold(const std::function<void()>& work) {
    double best = 1e9;
    for (int run = 0; run < kRuns; ++run) {
      read();
      best = std::min(best, seconds(work));
    }
    return best;
  }

 private:
  at::Tensor big_ = at::ones({1 << 27}, at::kLong);
  std::vector<int64_t> sums_ = std::vector<int64_t>(64);
};

// One weight of random codes with four sets of parameters.
struct Weight {
  Weight(const Shape& shape, int64_t bits, bool has_zeros)
      : layout(Layout::of(shape.rows, shape.columns, bits, kGroup)),
        words(at::randint(INT32_MIN, INT32_MAX, {layout.words()}, at::kInt)),
        x(at::randn({kMostInputs, shape.columns})),
        y(at::empty({kMostInputs, shape.rows})) {
    const at::Tensor scale = at::rand({shape.rows, layout.groups}).to(at::kHalf).to(at::kFloat);
    const at::Tensor zero = (at::rand({shape.rows, layout.groups}) * 3).to(at::kHalf).to(at::kFloat);
    for (int r = 0; r < 4; ++r) {
      values.push_back(at::empty({parameter_values(layout, has_zeros)}, at::kShort));
      fill_parameters(layout, scale.const_data_ptr<float>(), has_zeros ? zero.const_data_ptr<float>() : nullptr, true,
                      values[r].mutable_data_ptr());
      sets.push_back({values[r].const_data_ptr(), true, has_zeros, 1.5f, nullptr});
    }
  }

  // `n` inputs or `set_count` sets, inputs made ready anew each time.
  void multiply(Precision precision, int64_t n, int64_t set_count) {
    inputs.prepare(layout, precision, x.const_data_ptr<float>(), n, layout.columns);
    const Product product{.layout = &layout,
                          .codes = reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>()),
                          .sets = sets.data(),
                          .set_count = set_count,
                          .inputs = &inputs,
                          .out = y.mutable_data_ptr<float>(),
                          .out_stride = layout.rows};
    const Kernel& kernel = chosen_kernel();
    const int64_t grain = (layout.tiles() + at::get_num_threads() - 1) / at::get_num_threads();
    at::parallel_for(0, layout.tiles(), grain, [&](int64_t begin, int64_t end) { kernel.run(product, begin, end); });
  }
  double code_bytes() const { return static_cast<double>(layout.words()) * 4; }
  double bytes() const { return code_bytes() + static_cast<double>(values[0].nbytes()); }

  Layout layout;
  at::Tensor words, x, y;
  std::vector<at::Tensor> values;
  std::vector<quant::kernels::Parameters> sets;
  Inputs inputs;
};

// ---- ggml's Q2_K, through its shared library ----

struct Ggml {
  static constexpr int kQ2K = 10, kQ8K = 15;  // enum ggml_type
  static constexpr int64_t kBlock = 256, kQ2Bytes = 84, kQ8Bytes = 292;

  using Chunk = size_t (*)(int, const float*, void*, int64_t, int64_t, int64_t, const float*);
  using Row = void (*)(const float*, void*, int64_t);
  using Dot = void (*)(int, float*, size_t, const void*, size_t, const void*, size_t, int);
  using Init = void (*)();

  // base:cpu, paths of libraries; false, with a message: not there.
  bool open(const std::string& libraries) {
    void* last = nullptr;
    for (size_t at = 0; at <= libraries.size();) {
      const size_t end = std::min(libraries.find(':', at), libraries.size());
      const std::string name = libraries.substr(at, end - at);
      last = ::dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL);
      if (last == nullptr) return fmt::print("ggml: left out: {}\n", ::dlerror()), false;
      at = end + 1;
    }
    chunk = reinterpret_cast<Chunk>(::dlsym(RTLD_DEFAULT, "ggml_quantize_chunk"));
    row = reinterpret_cast<Row>(::dlsym(RTLD_DEFAULT, "quantize_row_q8_K"));
    dot = reinterpret_cast<Dot>(::dlsym(RTLD_DEFAULT, "ggml_vec_dot_q2_K_q8_K"));
    if (const auto init = reinterpret_cast<Init>(::dlsym(RTLD_DEFAULT, "ggml_cpu_init"))) init();
    if (chunk == nullptr || row == nullptr || dot == nullptr)
      return fmt::print("ggml: left out: {} lacks ggml_quantize_chunk, quantize_row_q8_K or ggml_vec_dot_q2_K_q8_K\n",
                        libraries),
             false;
    return true;
  }

  Chunk chunk = nullptr;
  Row row = nullptr;
  Dot dot = nullptr;
};

struct GgmlWeight {
  GgmlWeight(const Ggml& of, const Shape& shape) : ggml(of), rows(shape.rows), columns(shape.columns) {
    const at::Tensor w = at::randn({64, columns});  // the same rows again and again: the time does not depend on them
    codes = at::empty({rows, row_bytes()}, at::kByte);
    ggml.chunk(Ggml::kQ2K, w.const_data_ptr<float>(), codes.mutable_data_ptr(), 0, 64, columns, nullptr);
    for (int64_t r = 64; r < rows; r += 64) {
      const int64_t n = std::min<int64_t>(64, rows - r);
      codes.narrow(0, r, n).copy_(codes.narrow(0, 0, n));
    }
    x = at::randn({columns});
    y = at::empty({rows});
    input = at::empty({columns / Ggml::kBlock * Ggml::kQ8Bytes}, at::kByte);
  }
  int64_t row_bytes() const { return columns / Ggml::kBlock * Ggml::kQ2Bytes; }

  void multiply() {
    ggml.row(x.const_data_ptr<float>(), input.mutable_data_ptr(), columns);
    at::parallel_for(0, rows, rows / at::get_num_threads(), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        ggml.dot(static_cast<int>(columns), y.mutable_data_ptr<float>() + r, 0,
                 codes.const_data_ptr<uint8_t>() + r * row_bytes(), 0, input.const_data_ptr(), 0, 1);
      }
    });
  }

  const Ggml& ggml;
  int64_t rows, columns;
  at::Tensor codes, x, y, input;
};

// ---- the tables ----

void products(const Shape& shape, Precision precision, bool has_zeros, Memory& memory, double bandwidth) {
  Weight weight(shape, 2, has_zeros);
  std::vector<std::function<void()>> works;
  for (const int64_t sets : {1, 2, 4}) works.push_back([&, sets] { weight.multiply(precision, 1, sets); });
  for (const int64_t n : {2, 4, 8}) works.push_back([&, n] { weight.multiply(precision, n, 1); });
  const std::vector<double> t = shortest(works);
  const double cold = memory.cold(works[0]);
  fmt::print(
      "| {} {}×{} | {} | {} | {} | {:.2f} | {:.1f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |\n",
      shape.what, shape.rows, shape.columns, precision == Precision::integer ? "int8" : "float32",
      has_zeros ? "scale, zero" : "scale", at::get_num_threads(), t[0] * 1e3, weight.code_bytes() / t[0] / 1e9,
      cold * 1e3, weight.bytes() / cold / bandwidth, t[1] / t[0], t[2] / t[0], t[3] / t[0], t[4] / t[0], t[5] / t[0]);
}

void peers(const Shape& shape, const Ggml* ggml) {
  Weight weight(shape, 2, true), symmetric(shape, 2, false);
  const int64_t O = shape.rows, I = shape.columns;
  const at::Tensor x = at::randn({1, I}).to(at::kBFloat16), w = at::randn({O, I}).to(at::kBFloat16);
  const at::Tensor int4 = at::_convert_weight_to_int4pack_for_cpu(at::randint(0, 16, {O, I}, at::kInt), 1);
  const at::Tensor scales = at::rand({I / kGroup, O, 2}).to(at::kBFloat16);
  std::vector<std::string> names{"ours, 2-bit, int8", "ours, 2-bit, scales only, int8", "ours, 2-bit, float32",
                                 "ATen bfloat16", "ATen int4 pack, bfloat16"};
  std::vector<std::function<void()>> works{[&] { weight.multiply(Precision::integer, 1, 1); },
                                           [&] { symmetric.multiply(Precision::integer, 1, 1); },
                                           [&] { weight.multiply(Precision::real, 1, 1); }, [&] { at::linear(x, w); },
                                           [&] { at::_weight_int4pack_mm_for_cpu(x, int4, kGroup, scales); }};
  std::optional<GgmlWeight> q2;
  if (ggml != nullptr && I % Ggml::kBlock == 0) {
    q2.emplace(*ggml, shape);
    names.emplace_back("ggml Q2_K × Q8_K");
    works.push_back([&] { q2->multiply(); });
  }
  std::vector<double> t;
  for (const auto& work : works) t.push_back(shortest({work})[0]);  // each alone: they would evict each other's weights
  for (size_t i = 0; i < t.size(); ++i) {
    fmt::print("| {}×{} | {} | {} | {:.3f} | {:.2f} |\n", O, I, at::get_num_threads(), names[i], t[i] * 1e3,
               t[i] / t[0]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string libraries;
  bool all = false;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--ggml" && i + 1 < argc) libraries = argv[++i];
    if (std::string(argv[i]) == "--shapes" && i + 1 < argc) all = std::string(argv[++i]) == "all";
  }
  Ggml ggml;
  const bool has_ggml = !libraries.empty() && ggml.open(libraries);
  if (libraries.empty()) fmt::print("ggml: left out. Name its libraries with --ggml base:cpu.\n");
  std::vector<Shape> shapes{{"Qwen2.5-14B up", 13824, 5120}, {"Qwen2.5-14B down", 5120, 13824}};
  if (all) {
    shapes.insert(shapes.end(), {{"Qwen2.5-32B up", 27648, 5120},
                                 {"Qwen2.5-32B q", 5120, 5120},
                                 {"Qwen3-8B up", 12288, 4096},
                                 {"Qwen2.5-0.5B up", 4864, 896},
                                 {"Qwen3-0.6B k", 1024, 1024}});
  }
  Memory memory;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    const double bandwidth = memory.bandwidth();
    fmt::print("\n{} thread(s), kernel {}, read bandwidth {:.1f} GB/s\n\n", threads, chosen_kernel().name,
               bandwidth / 1e9);
    fmt::print(
        "| shape | inputs | parameters | threads | ms | GB/s of codes | ms from memory | of bandwidth | R=2 | R=4 | "
        "n=2 | n=4 | "
        "n=8 |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (const Shape& shape : shapes) {
      for (const bool zeros : {false, true}) products(shape, Precision::integer, zeros, memory, bandwidth);
      products(shape, Precision::real, true, memory, bandwidth);
    }
    fmt::print("\n| shape | threads | product | ms | of the first |\n|---|---|---|---|---|\n");
    peers(shapes[1], has_ggml ? &ggml : nullptr);
  }
}
