// What a method may know about the inputs of a linear. Calibration (quant/calibration/calibration.h) fills it.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace quant {

// What a method or a format asks for.
struct Needs {
  bool hessian = false;      // mean of x xᵀ
  bool mean_square = false;  // mean of x² per input column
  bool absmax = false;       // largest |x| per input column
  bool mean_abs = false;     // mean of |x| per input column
  bool cross = false;        // mean of (x_fp − x) xᵀ, x_fp what the full-precision model has in place of x
  bool any() const { return hessian || mean_square || absmax || mean_abs || cross; }
  Needs operator|(const Needs& other) const {
    return {hessian || other.hessian, mean_square || other.mean_square, absmax || other.absmax,
            mean_abs || other.mean_abs, cross || other.cross};
  }
};

// Shape of a distribution of values. Over a matrix whose columns are input features:
struct WeightShape {
  double absmax = 0;           // max |w|
  double kurtosis = 0;         // E[(w − mean)⁴] / variance²; 3 for a normal distribution
  double outlier_columns = 0;  // share of input columns whose rms exceeds 3 × the median column rms
};

// Over all calibration tokens that reached the linear. Per token and column means; the small ones are there as soon as
// anything was asked for, the two matrices and the mean of |x| only on demand.
struct Statistics {
  at::Tensor hessian = {};      // [I, I] float32
  at::Tensor mean_square = {};  // [I] float32
  at::Tensor absmax = {};       // [I] float32
  at::Tensor mean_abs = {};     // [I] float32
  at::Tensor cross = {};        // [I, I] float32
  double kurtosis = 0;          // of all values
  int64_t tokens = 0;           // 0: nothing is known

  WeightShape shape() const;
  Statistics to(at::Device device) const;
  Statistics divided(const at::Tensor& f) const;  // of x / f, except for the kurtosis; f: [I]
  // Of all their tokens together; the kurtosis is the mean over the tokens. Those without tokens do not count.
  static Statistics pooled(const std::vector<Statistics>& all);
};

// Share of columns whose rms exceeds 3 × the median column rms. mean_square: [I].
double outlier_columns(const at::Tensor& mean_square);

}  // namespace quant
