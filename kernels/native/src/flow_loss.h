#pragma once
#include <cstdint>

// Distances of two fields of C channels per pixel. The definition is ../../geometry/losses/flow_reference.py.
namespace phys4d {

enum class FlowLoss { kL1, kCharbonnier, kEndPoint, kLaplace };

// Channels [clips, channels, pixels] whose pixels are contiguous; strides in elements.
template <typename T>
struct Channels {
  const T* data;
  int64_t clip, channel;
};

// valid [clips, pixels] and weight [clips, pixels], which may be null, are contiguous. For kLaplace alone confidence has
// two channels: the logit of the share of the first distribution, and the log of the second one's scale.
template <typename T>
struct FlowInputs {
  Channels<T> predicted, target, confidence;
  const T* weight;
  const uint8_t* valid;
  int64_t clips, channels, pixels;
  FlowLoss loss;
};

// Per clip the weighted sum of errors and the sum of weights. The same bits for any number of threads.
template <typename T>
void flow_loss_cpu(const FlowInputs<T>& in, double* sum, double* total);

// scale [clips]: gradient of a clip's loss over its sum of weights. Writes d_predicted [clips, channels, pixels]
// and for kLaplace d_confidence [clips, 2, pixels].
template <typename T>
void flow_loss_backward_cpu(const FlowInputs<T>& in, const double* scale, T* d_predicted, T* d_confidence);

}  // namespace phys4d
