"""What the file of a rate-distortion model holds besides the weights of its parts."""

import keras
from keras import ops

PARTS = ("encoder", "decoder", "channel", "prior", "distortion", "penalty", "constraint")


class Saving(keras.Model):
    """Saves the parts of a model, beta, and the states of its generators of random numbers."""

    @property
    def random_states(self) -> list[keras.Variable]:
        """States of all generators of random numbers, in a fixed order."""
        return [variable for variable in self.variables if variable.path.endswith("seed_generator_state")]

    def save_own_variables(self, store):
        store["beta"] = ops.convert_to_numpy(self.beta)
        # Keras saves no state of seed generators; with it a training that is resumed draws the noise that it would have.
        for i, state in enumerate(self.random_states):
            store[f"random_state_{i}"] = ops.convert_to_numpy(state)
        for name, variable in self._of_a_subclass().items():
            store[name] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        self.beta.assign(store["beta"][()])
        for i, state in enumerate(self.random_states):
            if (name := f"random_state_{i}") in store:  # a file of weights may be of a model without this generator
                state.assign(store[name][()])
        for name, variable in self._of_a_subclass().items():
            if name in store:
                variable.assign(store[name][()])

    def _of_a_subclass(self) -> dict[str, keras.Variable]:
        """Weights of the model itself besides beta, which only a subclass adds, by their names in a file."""
        own: dict[str, keras.Variable] = {}
        super().save_own_variables(own)
        return {f"own_{place}": variable for place, variable in own.items() if variable is not self.beta}

    def get_config(self):
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in PARTS}
        return {"name": self.name, "beta": float(ops.convert_to_numpy(self.beta)), **parts}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if "encoder" not in config:
            raise ValueError("This file was written by version 0.1 of echo_tf. Load it with that version, or train anew.")
        parts = {name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in PARTS}
        return cls(**{**config, **parts})
