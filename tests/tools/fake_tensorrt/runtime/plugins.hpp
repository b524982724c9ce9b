// What tests ask of the fake plugin registry. No header of TensorRT.
#pragma once

namespace fake {

/// Whether registries load plugin libraries: from TensorRT 8.6 on.
bool registry_loads_libraries();

/// Removes what earlier tests registered in the process's registry of 8.5; from 8.6 on there is none.
void forget_plugins();

}  // namespace fake
