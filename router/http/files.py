handlers: tuple[()] = ()
